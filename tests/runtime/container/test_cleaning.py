"""What is taken out of a snapshot, without an engine."""

import asyncio
import io
import json
import tarfile
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


def cleaned(files: Any) -> Any:
    return cleaning.cleaned_files(files, "c", "C.51")


async def test_a_block_is_out_while_it_lasts_and_in_again_afterwards() -> None:
    files = Files(**{PATH: b"A=1\n" + BLOCK + b"B=2\n"})

    async with cleaned(files):
        assert (await files.text()) == (b"A=1\nB=2\n", 0o644, 7)

    assert (await files.text()) == (b"A=1\n" + BLOCK + b"B=2\n", 0o644, 7)


async def test_what_somebody_wrote_meanwhile_stays_and_files_without_a_block_are_not_touched() -> None:
    files = Files(**{PATH: BLOCK, "/root/.ssh/authorized_keys": b"ssh-ed25519 AAAA\n"})
    before = files.found["/root/.ssh/authorized_keys"]

    async with cleaned(files):
        files.found[PATH] = tar_of(b"C=3\n")

    assert (await files.text())[0] == b"C=3\n"
    assert files.found["/root/.ssh/authorized_keys"] is before


async def test_a_file_that_cannot_be_read_whole_ends_it() -> None:
    files = Files(**{PATH: BLOCK + b"x" * 100_000})
    files.found[PATH] = files.found[PATH][:5000]

    with pytest.raises(WorkloadError) as caught:
        async with cleaned(files):
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
