"""An image's own VOLUME paths, brought inside the instance's disk.

For such a path the engine would make a volume outside of the container's layer, where no size limits it. So the
container is made from the image's twin: the same layers under a configuration without VOLUME. The engine takes a twin
as a `docker load` of a few kilobytes, since it has the layers; what the image holds at the path is simply there.

An engine that refuses twins gets the image itself: its volumes without a name are counted as the instance's bytes, and
go with the container. A twin bears kaalia's label and the machine's id, and goes when no container needs it.
"""

import asyncio
import hashlib
import io
import json
import logging
import posixpath
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import encode_twin, twin_filter, twin_of

log = logging.getLogger(__name__)


class Twins:
    """The twins that one machine has made in its engine."""

    def __init__(self, engine: DockerEngine, machine: str) -> None:
        self._engine = engine
        self._machine = machine
        self._making = Counter[str]()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def instead_of(self, document: Mapping[str, Any]) -> AsyncIterator[str]:
        """The id of the twin, kept until the context ends: by then a container holds it."""
        twin_id, tar = twin(document, self._machine)
        async with self._lock:
            self._making[twin_id] += 1
        try:
            yield await self._made(twin_id, tar, str(document["Id"]))
        finally:
            self._making[twin_id] -= 1

    async def forget(self, image_id: str) -> None:
        """A container that was made from this image is gone: if the image is a twin that nobody else uses, it goes."""
        document = await self._engine.image(image_id)
        if document is not None and twin_of((document.get("Config") or {}).get("Labels"), self._machine):
            await self._remove(image_id)

    async def sweep(self) -> None:
        """Remove every twin that no container uses: a crash may have left one."""
        for entry in await self._engine.images(twin_filter(self._machine)):
            await self._remove(str(entry["Id"]))

    async def _made(self, twin_id: str, tar: bytes, image_id: str) -> str:
        if await self._engine.image(twin_id) is not None:
            return twin_id
        try:
            await self._engine.load_image(tar)
            if await self._engine.image(twin_id) is not None:
                return twin_id
            why = "it is not there after the load"
        except WorkloadError as error:
            if error.code == "engine_unavailable":
                raise
            why = f"{error}: {error.problem.evidence}"
        log.warning("the engine takes no twin of %s, so its volumes lie outside the instance's disk: %s", image_id, why)
        return image_id

    async def _remove(self, twin_id: str) -> None:
        async with self._lock:
            if self._making[twin_id]:
                return
            try:
                await self._engine.remove_image(twin_id)
            except WorkloadError as error:
                if error.code != "engine_conflict":
                    raise


def volume_paths(document: Mapping[str, Any], covered: Collection[str] = ()) -> tuple[str, ...]:
    """The image's VOLUME paths without those that a mount covers."""
    named = (document.get("Config") or {}).get("Volumes") or {}
    paths = {posixpath.normpath(f"/{path.lstrip('/')}") for path in named}
    return tuple(sorted(paths - {posixpath.normpath(target) for target in covered} - {"/"}))


def twin(document: Mapping[str, Any], machine: str) -> tuple[str, bytes]:
    """By the inspection of an image: the id of its twin, and the tar that makes it. The same each time."""
    image_id, layers = str(document["Id"]), [str(layer) for layer in document["RootFS"]["Layers"]]
    config = {key: value for key, value in (document.get("Config") or {}).items() if key != "Volumes"}
    config["Labels"] = {**(config.get("Labels") or {}), **encode_twin(machine, image_id)}
    return image_of(document, config, layers, f"a layer of {image_id}")


def image_of(
    document: Mapping[str, Any],
    config: Mapping[str, Any],
    layers: Sequence[str],
    words: str,
    contents: Mapping[int, bytes] = MappingProxyType({}),
) -> tuple[str, bytes]:
    """Its id, and the tar that makes it of layers that the engine has, or of `contents` by number. The same each time.

    `document`: the inspection of an image with its platform and time. `words`: of the history.
    """
    created = document.get("Created") or "1970-01-01T00:00:00Z"
    image = {
        "architecture": document.get("Architecture", ""),
        "os": document.get("Os", "linux"),
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": [{"created": created, "created_by": words} for _ in layers],
    }
    if document.get("Variant"):
        image["variant"] = document["Variant"]
    content = json.dumps(image, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{digest}.json", "RepoTags": None, "Layers": names}]
    files = {f"{digest}.json": content, "manifest.json": json.dumps(manifest).encode()}
    return f"sha256:{digest}", tar_of(files | {names[number]: layer for number, layer in contents.items()})


def with_parents(paths: Iterable[str]) -> tuple[str, ...]:
    """All folders on the way, the outer ones first: `/srv/db` gives `/srv` and `/srv/db`."""
    found = set()
    for path in paths:
        folder = path
        while folder != "/":
            found.add(folder)
            folder = posixpath.dirname(folder)
    return tuple(sorted(found))


def folders(paths: Iterable[str]) -> bytes:
    """A tar of empty folders, as the engine makes them for mounts: of root, readable by all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in paths:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return buffer.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """These files by name, of root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
