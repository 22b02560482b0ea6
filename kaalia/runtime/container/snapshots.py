"""A snapshot of a contract's container: committed, freed of what is kaalia's, pushed, and removed from this machine.

    look ──▶ room? ──▶ commit ──▶ the image's own configuration ──▶ push ──▶ remove

Nothing of the contract's configuration goes along: the image that is pushed has the layers of the committed one and the
configuration of the image that the container was made from. So no variable, key or label of the contract is in it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.base import Progress, RegistryLogin
from kaalia.runtime.container.cleaning import cleaned_files, pushed_image, put_back
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.images import login_for
from kaalia.runtime.container.spec import container_name
from kaalia.runtime.labels import contract_filter, machine_filter, owner
from kaalia.units import MIB, format_bytes

log = logging.getLogger(__name__)

MARK = "kaalia-snapshot"
"""A second name of what is being pushed, so that a crash leaves nothing unknown."""
_NAMELESS = "<none>:<none>"
COMMIT_SILENCE_S = 3600.0
"""The engine says nothing while it copies a layer."""
PUSH_SILENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to push where. `image`: `[registry/]path:tag`."""

    contract_id: int
    image: str
    pause: bool
    login: RegistryLogin | None


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the machine knows of its images and its disk.

    `mark_private`: no contract takes an image of these names from this machine without asking its registry.
    `is_ours`: kaalia pulled this image. `room`: bytes of the engine's disk that may still be filled. `held`: a folder
    for what is taken out of a container while it is committed.
    """

    mark_private: Callable[[str, str], Awaitable[None]]
    is_ours: Callable[[str], Awaitable[bool]]
    room: Callable[[], Awaitable[int]]
    held: Path


class Snapshots:
    """Of the containers of one machine (`labels.machine_name`) on one engine; one at a time."""

    def __init__(self, engine: DockerEngine, machine: str, keeping: Keeping) -> None:
        self._engine = engine
        self._machine = machine
        self._keeping = keeping
        self._one = asyncio.Lock()

    async def take(self, order: Order, progress: Progress) -> str:
        """The digest that the registry was given.

        Raises WorkloadError `not_found`, `snapshot_no_room`, `snapshot_name_taken`, and those of a push.
        """
        async with self._one:
            await self._sweep()
            document = await self._container(order.contract_id)
            await self._check_room(order.contract_id)
            await self._check_name(order.image)
            progress(f"committing C.{order.contract_id}")
            async with self._committed(order, document) as image_id:
                return await self._push(order, image_id, progress)

    async def sweep(self) -> None:
        """Mend and remove what a crash left: now, and before the next one, since the engine may be at it still."""
        async with self._one:
            await self._sweep()

    async def _sweep(self) -> None:
        await put_back(self._engine, self._keeping.held)
        for entry in await self._engine.images():
            tags = [str(tag) for tag in entry.get("RepoTags") or [] if tag != _NAMELESS]
            if any(tag.startswith(f"{MARK}:") for tag in tags):
                for tag in tags:
                    await self._removed(tag)
            elif not tags and owner(entry.get("Labels"), self._machine) is not None:
                await self._removed(str(entry["Id"]))

    async def _container(self, contract_id: int) -> Mapping[str, Any]:
        document = await self._engine.inspect_container(container_name(contract_id))
        if document is None or owner(document["Config"].get("Labels"), self._machine) != contract_id:
            raise WorkloadError(
                "not_found",
                f"cannot take a snapshot of C.{contract_id}: it has no container",
                remedy="start the instance first",
            )
        return document

    async def _check_room(self, contract_id: int) -> None:
        """A commit copies what the container has written."""
        listed = await self._engine.containers(
            machine_filter(self._machine), contract_filter(contract_id), with_sizes=True
        )
        written = max((int(one.get("SizeRw") or 0) for one in listed), default=0)
        left = await self._keeping.room()
        if written > left:
            raise WorkloadError(
                "snapshot_no_room",
                f"cannot take a snapshot of C.{contract_id}: it has written {format_bytes(written)}, and the machine's "
                f"disk has room for {format_bytes(max(left, 0))}",
                remedy="delete what the image need not hold, or copy the data elsewhere",
            )

    async def _check_name(self, image: str) -> None:
        """An image that somebody else brought here keeps its name."""
        present = await self._engine.image(image)
        if present is not None and not await self._keeping.is_ours(str(present["Id"])):
            raise WorkloadError(
                "snapshot_name_taken",
                f"cannot push {image}: the machine's owner has an image of this name",
                remedy="choose another tag",
            )

    @asynccontextmanager
    async def _committed(self, order: Order, document: Mapping[str, Any]) -> AsyncIterator[str]:
        """The id of the image to push, which is gone in the end."""
        made: list[str] = []
        try:
            async with cleaned_files(
                self._engine, str(document["Id"]), container_name(order.contract_id), self._keeping.held
            ):
                committed_id = await self._commit(order, str(document["Id"]))
            made.append(committed_id)
            committed, base = await self._engine.image(committed_id), await self._engine.image(str(document["Image"]))
            if committed is None or base is None:
                raise WorkloadError(
                    "snapshot_image_gone",
                    f"cannot take a snapshot of C.{order.contract_id}: its image was removed meanwhile",
                    remedy="take the snapshot again",
                )
            image_id, tar = await asyncio.to_thread(pushed_image, committed, base)
            await self._engine.load_image(tar)
            made.append(image_id)
            await self._name(order, image_id)
            yield image_id
        finally:
            await asyncio.shield(self._forget(order, made))

    async def _commit(self, order: Order, container_id: str) -> str:
        found: list[str] = []
        params = {"container": container_id, "pause": "1" if order.pause else "0"}

        def on_document(document: dict[str, Any]) -> None:
            found.append(str(document.get("Id", "")))

        doing = f"commit C.{order.contract_id}"
        await self._engine.start_transfer(doing, "/commit", params, {}, COMMIT_SILENCE_S, on_document)
        return found[0]

    async def _name(self, order: Order, image_id: str) -> None:
        """Whoever launches an image of this name meanwhile gets it from its registry, and not this one."""
        await self._keeping.mark_private(order.image, image_id)
        name, _, tag = order.image.rpartition(":")
        for repo, its_tag in ((MARK, f"c{order.contract_id}"), (name, tag)):
            path, params = f"/images/{image_id}/tag", {"repo": repo, "tag": its_tag}
            await self._engine.start_transfer(f"name {order.image}", path, params, {}, PUSH_SILENCE_S, _nothing)

    async def _push(self, order: Order, image_id: str, progress: Progress) -> str:
        name, _, tag = order.image.rpartition(":")
        state, loop = PushProgress(order.image), asyncio.get_running_loop()

        def on_document(document: dict[str, Any]) -> None:
            state.add(document)
            loop.call_soon_threadsafe(progress, state.line())

        login = login_for(order.image, order.login)
        params = {"tag": tag}
        await self._engine.start_transfer(
            f"push {order.image}", f"/images/{name}/push", params, login, PUSH_SILENCE_S, on_document
        )
        return state.digest

    async def _forget(self, order: Order, made: list[str]) -> None:
        if len(made) > 1:
            for name in (order.image, f"{MARK}:c{order.contract_id}"):
                found = await self._engine.image(name)
                if found is not None and str(found["Id"]) == made[-1]:
                    await self._removed(name)
        for image_id in reversed(made):
            await self._removed(image_id)

    async def _removed(self, name: str) -> None:
        """What stays for now goes with the next sweep."""
        try:
            await self._engine.remove_image(name)
        except WorkloadError as error:
            log.warning("snapshots: %s stays for now: %s", name[:40], error)


def _nothing(_: Mapping[str, Any]) -> None:
    """No line of progress is of interest."""


class PushProgress:
    """Folds the engine's progress documents into one line; the digest when all is there."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._layers: dict[str, tuple[int, int]] = {}
        self.digest = ""

    def add(self, document: Mapping[str, Any]) -> None:
        if aux := document.get("aux"):
            self.digest = str(aux.get("Digest", ""))
        layer, detail = str(document.get("id", "")), document.get("progressDetail") or {}
        if not layer:
            return
        current, total = self._layers.get(layer, (0, 0))
        with suppress(TypeError, ValueError):
            current, total = int(detail.get("current", current)), int(detail.get("total", total))
        if document.get("status") in ("Pushed", "Layer already exists"):
            current = total
        self._layers[layer] = (current, max(total, current))

    def line(self) -> str:
        current = sum(done for done, _ in self._layers.values())
        total = sum(size for _, size in self._layers.values())
        if not total:
            return f"pushing {self._reference}"
        return f"pushing {self._reference}: {current / MIB:.0f} of {total / MIB:.0f} MiB ({100 * current // total} %)"
