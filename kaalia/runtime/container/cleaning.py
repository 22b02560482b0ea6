"""What is kaalia's in a container, taken out of what is committed of it.

Two files hold a block of the kit's with variables and keys of the contract: it is out of them while the engine commits,
and in again afterwards (the kit writes it anew at each start in any case). Files without a secret are hidden by a
further layer. The configuration is the base image's own.
"""

import asyncio
import hashlib
import io
import logging
import re
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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


@asynccontextmanager
async def cleaned_files(engine: DockerEngine, container_id: str, name: str) -> AsyncIterator[None]:
    """The container's files are without kaalia's blocks while the context lasts. Raises WorkloadError."""
    async with AsyncExitStack() as stack:
        for path in BLOCKS:
            await stack.enter_async_context(_without_block(engine, container_id, name, path))
        yield


@asynccontextmanager
async def _without_block(engine: DockerEngine, container_id: str, name: str, path: str) -> AsyncIterator[None]:
    found = await asyncio.to_thread(_file, await engine.get_archive(container_id, name, path))
    if found is None or not _BLOCK.search(found[1]):
        yield
        return
    entry, content = found
    without = _BLOCK.sub(b"", content)
    folder = path.rpartition("/")[0]
    await engine.put_archive(container_id, name, folder, await asyncio.to_thread(_tar_like, entry, without))
    try:
        yield
    finally:
        now = await asyncio.to_thread(_file, await engine.get_archive(container_id, name, path))
        if now is not None and now[1] == without:  # else somebody has written it meanwhile
            await engine.put_archive(container_id, name, folder, await asyncio.to_thread(_tar_like, entry, content))


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
