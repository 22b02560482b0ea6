"""What is taken out of a snapshot, without an engine."""

import asyncio
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kaalia.errors import WorkloadError
from kaalia.runtime.container import cleaning

BLOCK = b"# kaalia: begin\nKEY='hush'\n# kaalia: end\n"
PATH = "/etc/environment"


def tar_of(content: bytes, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("environment")
        entry.size, entry.mode, entry.uid = len(content), mode, 7
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Files:
    """An engine with the files of one container."""

    def __init__(self, **found: bytes) -> None:
        self.found = {path: tar_of(content) for path, content in found.items()}

    async def get_archive(self, _id: str, _name: str, path: str) -> bytes | None:
        return self.found.get(path)

    async def put_archive(self, _id: str, _name: str, folder: str, tar: bytes) -> None:
        name, *_ = await asyncio.to_thread(read, tar)
        self.found[f"{folder}/{name}"] = tar

    async def text(self) -> tuple[bytes, int, int]:
        _, content, mode, uid = await asyncio.to_thread(read, self.found[PATH])
        return content, mode, uid


def read(tar: bytes) -> tuple[str, bytes, int, int]:
    """Name, content, mode and owner of the file."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        entry = archive.getmembers()[0]
        content = archive.extractfile(entry)
        assert content is not None
        return entry.name, content.read(), entry.mode, entry.uid


ID = "c" * 64


def cleaned(files: Any, held: Path) -> Any:
    return cleaning.cleaned_files(files, ID, "C.51", held)


def held_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


async def test_a_block_is_out_while_it_lasts_and_in_again_afterwards(tmp_path: Path) -> None:
    files = Files(**{PATH: b"A=1\n" + BLOCK + b"B=2\n"})

    async with cleaned(files, tmp_path / "held"):
        assert (await files.text()) == (b"A=1\nB=2\n", 0o644, 7)

    assert (await files.text()) == (b"A=1\n" + BLOCK + b"B=2\n", 0o644, 7)
    assert held_in(tmp_path / "held") == []


async def killed_meanwhile(files: Any, held: Path) -> None:
    """As after a SIGKILL: nothing is put back."""
    context = cleaned(files, held)
    await context.__aenter__()
    folder, kept = held, {one.name: one.read_bytes() for one in held.iterdir()}
    mode = {oct(one.stat().st_mode & 0o777) for one in (folder, *folder.iterdir())}
    assert mode == {"0o700", "0o600"}
    found = dict(files.found)
    await context.__aexit__(None, None, None)
    files.found.clear()
    files.found.update(found)
    for name, tar in kept.items():
        (held / name).write_bytes(tar)


async def test_a_crash_s_blocks_come_back(tmp_path: Path) -> None:
    files, held = Files(**{PATH: b"A=1\n" + BLOCK, "/root/.ssh/authorized_keys": BLOCK}), tmp_path / "held"
    await killed_meanwhile(files, held)
    assert (await files.text())[0] == b"A=1\n"
    (held / "notes.txt").write_text("the owner's own")

    await cleaning.put_back(files, held)  # type: ignore[arg-type]

    assert (await files.text()) == (b"A=1\n" + BLOCK, 0o644, 7)
    assert (await asyncio.to_thread(read, files.found["/root/.ssh/authorized_keys"]))[1] == BLOCK
    assert held_in(held) == ["notes.txt"]


@pytest.mark.parametrize("written", [b"A=1\nC=3\n", BLOCK + b"A=1\n", None])
async def test_after_a_crash_what_was_written_since_stays(tmp_path: Path, written: bytes | None) -> None:
    """By the renter, by the kit at a start; or the container is gone."""
    files, held = Files(**{PATH: b"A=1\n" + BLOCK}), tmp_path / "held"
    await killed_meanwhile(files, held)
    files.found = {} if written is None else {PATH: tar_of(written)}

    await cleaning.put_back(files, held)  # type: ignore[arg-type]

    assert files.found == ({} if written is None else {PATH: tar_of(written)})
    assert held_in(held) == []


async def test_what_the_engine_does_not_take_is_tried_again(tmp_path: Path) -> None:
    files, held = Files(**{PATH: b"A=1\n" + BLOCK}), tmp_path / "held"
    await killed_meanwhile(files, held)

    class Down(Files):
        """An engine that is not there."""

        async def get_archive(self, _id: str, _name: str, path: str) -> bytes | None:
            raise WorkloadError("engine_unavailable", "cannot reach the engine")

    await cleaning.put_back(Down(), held)  # type: ignore[arg-type]
    await cleaning.put_back(files, held)  # type: ignore[arg-type]

    assert (await files.text())[0] == b"A=1\n" + BLOCK


class Late(Files):
    """An engine that is asked in time and answers too late: before or after it has done the first write."""

    def __init__(self, has_done: bool, error: BaseException, **found: bytes) -> None:
        super().__init__(**found)
        self.has_done, self.error, self.writes = has_done, error, 0

    async def put_archive(self, container_id: str, name: str, folder: str, tar: bytes) -> None:
        self.writes += 1
        if self.writes > 1 or self.has_done:
            await super().put_archive(container_id, name, folder, tar)
        if self.writes == 1:
            self.first = (container_id, name, folder, tar)
            raise self.error


@pytest.mark.parametrize("error", [WorkloadError("engine_unavailable", "timed out"), asyncio.CancelledError()])
async def test_a_write_that_fails_after_its_effect_is_taken_back(tmp_path: Path, error: BaseException) -> None:
    files, held = Late(True, error, **{PATH: b"A=1\n" + BLOCK}), tmp_path / "held"

    with pytest.raises(type(error)):
        async with cleaned(files, held):
            raise AssertionError("it begins")

    assert (await files.text()) == (b"A=1\n" + BLOCK, 0o644, 7)
    assert held_in(held) == []


async def test_a_write_that_comes_after_its_failure_is_taken_back_by_the_next_sweep(tmp_path: Path) -> None:
    error = WorkloadError("engine_unavailable", "timed out")
    files, held = Late(False, error, **{PATH: b"A=1\n" + BLOCK}), tmp_path / "held"
    with pytest.raises(WorkloadError):
        async with cleaned(files, held):
            raise AssertionError("it begins")
    await Files.put_archive(files, *files.first)
    assert (await files.text())[0] == b"A=1\n"

    await cleaning.put_back(files, held)  # type: ignore[arg-type]

    assert (await files.text())[0] == b"A=1\n" + BLOCK
    assert held_in(held) == []


async def test_what_was_not_written_whole_is_dropped_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash in the midst of writing, and a power cut after it."""
    files = Files(**{PATH: b"A=1\n" + BLOCK})
    (tmp_path / f".{ID}.0").write_bytes(tar_of(BLOCK)[:100])
    (tmp_path / f"{ID}.0").write_bytes(b"")
    (tmp_path / f"{ID}.1").write_bytes(tar_of(BLOCK)[:520])
    (tmp_path / ".notes").write_text("the owner's own")

    await cleaning.put_back(files, tmp_path)  # type: ignore[arg-type]

    assert held_in(tmp_path) == [".notes"]
    assert (await files.text())[0] == b"A=1\n" + BLOCK
    assert [record.getMessage().count("cannot be read") for record in caplog.records] == [1, 1]


async def test_a_folder_that_cannot_be_used_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """The daemon's start goes on after a WorkloadError."""
    files = Files(**{PATH: BLOCK})
    (tmp_path / f"{ID}.0").mkdir()
    (tmp_path / "file").write_text("")

    await cleaning.put_back(files, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(WorkloadError) as caught:
        async with cleaned(files, tmp_path / "file"):
            raise AssertionError("it begins")

    assert caught.value.code == "snapshot_held"
    assert (await files.text())[0] == BLOCK


async def test_what_somebody_wrote_meanwhile_stays_and_files_without_a_block_are_not_touched(tmp_path: Path) -> None:
    files = Files(**{PATH: BLOCK, "/root/.ssh/authorized_keys": b"ssh-ed25519 AAAA\n"})
    before = files.found["/root/.ssh/authorized_keys"]

    async with cleaned(files, tmp_path / "held"):
        files.found[PATH] = tar_of(b"C=3\n")

    assert (await files.text())[0] == b"C=3\n"
    assert files.found["/root/.ssh/authorized_keys"] is before


async def test_a_file_that_cannot_be_read_whole_ends_it(tmp_path: Path) -> None:
    files = Files(**{PATH: BLOCK + b"x" * 100_000})
    files.found[PATH] = files.found[PATH][:5000]

    with pytest.raises(WorkloadError) as caught:
        async with cleaned(files, tmp_path / "held"):
            raise AssertionError("it begins")

    assert caught.value.code == "snapshot_file_large"


def test_the_image_has_the_base_image_s_configuration_and_hides_kaalia_s_files() -> None:
    layers = ["sha256:" + "1" * 64, "sha256:" + "2" * 64]
    committed = {
        "Id": "sha256:c",
        "Architecture": "amd64",
        "Os": "linux",
        "Config": {"Env": ["CONTAINER_API_KEY=hush"], "Labels": {"io.kaalia.contract": "51"}, "Cmd": ["/.kaalia/x"]},
        "RootFS": {"Layers": layers},
    }
    base = {"Config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"a": "b", "io.kaalia.twin.of": "sha256:x"}}}

    image_id, tar = cleaning.pushed_image(committed, base)

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {one.name: archive.extractfile(one) for one in archive}
        read = {name: file.read() for name, file in found.items() if file is not None}
    document = json.loads(read[f"{image_id.removeprefix('sha256:')}.json"])
    assert document["config"] == {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"a": "b"}}
    assert document["rootfs"]["diff_ids"][:2] == layers
    assert len(document["rootfs"]["diff_ids"]) == 3
    with tarfile.open(fileobj=io.BytesIO(read["2/layer.tar"])) as cover:
        assert cover.getnames() == [".wh..kaalia", ".wh..launch", "root/.wh..vast_containerlabel"]
    assert b"hush" not in tar
    assert cleaning.pushed_image(committed, base)[0] == image_id
