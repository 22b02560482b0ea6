"""What is kaalia's in a container, taken out of what is committed of it.

Two files hold a block of the kit's with variables and keys of the contract: it is out of them while the engine commits,
and in again afterwards (the kit writes it anew at each start in any case). Meanwhile they are held on the machine's
disk, so that they come back after a crash too. Files without a secret are hidden by a further layer. The configuration
is the base image's own.
"""

import asyncio
import hashlib
import io
import logging
import os
import re
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.inside import image_of, tar_of

log = logging.getLogger(__name__)

BLOCKS = ("/etc/environment", "/root/.ssh/authorized_keys")
HIDDEN = (".kaalia", ".launch", "root/.vast_containerlabel")
"""Of the root file system: folders that mounts need, and files that say what the container was."""
_BLOCK = re.compile(rb"^# kaalia: begin$.*?^# kaalia: end$\n?", re.MULTILINE | re.DOTALL)
_LABELS = "io.kaalia."
_HELD = re.compile(r"(\.?)[0-9a-f]{12,64}\.[01]")
"""The container's id, and which of BLOCKS; with a dot in front it was not written whole."""


@asynccontextmanager
async def cleaned_files(engine: DockerEngine, container_id: str, name: str, held: Path) -> AsyncIterator[None]:
    """The container's files are without kaalia's blocks while the context lasts. Raises WorkloadError.

    `held`: a folder for them as they were, which nobody else reads.
    """
    async with AsyncExitStack() as stack:
        for number in range(len(BLOCKS)):
            await stack.enter_async_context(_without_block(engine, container_id, name, number, held))
        yield


async def put_back(engine: DockerEngine, held: Path) -> None:
    """What a crash left without its blocks gets them back, unless somebody has written it since.

    Raises WorkloadError `snapshot_held`.
    """
    for file in await asyncio.to_thread(_files_of, held):
        container_id, _, number = file.name.partition(".")
        try:
            await _put_back(engine, container_id, container_id[:12], BLOCKS[int(number)], file)
        except WorkloadError as error:
            log.warning(
                "snapshots: %s of %s stays without its block: %s", BLOCKS[int(number)], container_id[:12], error
            )


@asynccontextmanager
async def _without_block(
    engine: DockerEngine, container_id: str, name: str, number: int, held: Path
) -> AsyncIterator[None]:
    path = BLOCKS[number]
    found = await asyncio.to_thread(_file, await engine.get_archive(container_id, name, path))
    if found is None or not _BLOCK.search(found[1]):
        yield
        return
    entry, content = found
    folder, file = path.rpartition("/")[0], held / f"{container_id}.{number}"
    await asyncio.to_thread(_hold, file, _tar_like(entry, content))
    is_out = False
    try:
        await engine.put_archive(
            container_id, name, folder, await asyncio.to_thread(_tar_like, entry, _BLOCK.sub(b"", content))
        )
        is_out = True
        yield
    finally:
        await _put_back(engine, container_id, name, path, file, may_come=not is_out)


async def _put_back(
    engine: DockerEngine, container_id: str, name: str, path: str, file: Path, may_come: bool = False
) -> None:
    """Only where nothing but the block is missing: else somebody has written it meanwhile.

    `may_come`: the engine may yet take the block out, after a time-out. Then what is held stays for the next sweep.
    """
    held = await asyncio.to_thread(_held, file)
    if held is None:
        return
    tar, was = held
    now = await _content(engine, container_id, name, path)
    if now == _BLOCK.sub(b"", was):
        await engine.put_archive(container_id, name, path.rpartition("/")[0], tar)
    elif may_come and now == was:
        return
    await asyncio.to_thread(_drop, file)


async def _content(engine: DockerEngine, container_id: str, name: str, path: str) -> bytes | None:
    """None: it is not there, or larger than any file that was held."""
    tar = await engine.get_archive(container_id, name, path)
    try:
        found = await asyncio.to_thread(_file, tar)
    except WorkloadError:
        return None
    return None if found is None else found[1]


def _held(file: Path) -> tuple[bytes, bytes] | None:
    """The tar, and the content in it. None: it was not written whole, so it is dropped."""
    with _held_usable(file):
        tar = file.read_bytes()
    try:
        found = _file(tar)
    except WorkloadError:
        found = None
    if found is None:
        log.warning("snapshots: %s cannot be read, so it is dropped: the next start writes the block", file.name[:20])
        _drop(file)
        return None
    return tar, found[1]


def _hold(file: Path, tar: bytes) -> None:
    """Whole or not at all, after a power cut too. Raises WorkloadError `snapshot_held`."""
    with _held_usable(file):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(tar)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)


def _drop(file: Path) -> None:
    with _held_usable(file):
        file.unlink(missing_ok=True)


def _files_of(held: Path) -> list[Path]:
    """What is held, whole. What a crash cut off while it was written is removed: its block was not taken out."""
    with _held_usable(held):
        found = [one for one in sorted(held.iterdir()) if _HELD.fullmatch(one.name)] if held.is_dir() else []
    for one in found:
        if one.name.startswith("."):
            _drop(one)
    return [one for one in found if not one.name.startswith(".")]


@contextmanager
def _held_usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkloadError(
            "snapshot_held",
            f"cannot take a snapshot: {path}, where files are held meanwhile, is unusable: {error.strerror or error}",
            remedy="look at the disk and the rights of the daemon's state directory",
        ) from error


def pushed_image(committed: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[str, bytes]:
    """By two inspections: the id of the image to push, and the tar that makes it of layers that the engine has."""
    cover = _cover()
    layers = [*map(str, committed["RootFS"]["Layers"]), f"sha256:{hashlib.sha256(cover).hexdigest()}"]
    config = dict(base.get("Config") or {})
    labels = config.get("Labels") or {}
    config["Labels"] = {key: value for key, value in labels.items() if not key.startswith(_LABELS)} or None
    return image_of(committed, config, layers, "snapshot", {len(layers) - 1: cover})


def _cover() -> bytes:
    """A layer that hides files, in the way of the OCI image specification. The same each time."""
    found = []
    for path in HIDDEN:
        folder, _, name = path.rpartition("/")
        found.append(f"{folder}/.wh.{name}".lstrip("/"))
    return tar_of(dict.fromkeys(found, b""))


def _file(tar: bytes | None) -> tuple[tarfile.TarInfo, bytes] | None:
    """The plain file of an archive, whole; None: there is none, or it is larger than is read."""
    if tar is None:
        return None
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            entry = archive.next()
            opened = archive.extractfile(entry) if entry is not None and entry.isfile() else None
            if entry is None or opened is None:
                return None
            content = opened.read()
            if len(content) == entry.size:
                return entry, content
    except tarfile.TarError:
        pass
    raise WorkloadError(
        "snapshot_file_large",
        "cannot take a snapshot: /etc/environment or /root/.ssh/authorized_keys is larger than a megabyte",
        remedy="shorten it, and take the snapshot again",
    )


def _tar_like(entry: tarfile.TarInfo, content: bytes) -> bytes:
    """One file with the entry's owner and mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
