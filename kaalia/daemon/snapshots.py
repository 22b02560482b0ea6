"""What snapshots need to know of the machine: its images, by the store, and the room on its disk."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaalia.contracts.disk import low_water_bytes
from kaalia.errors import KaaliaError
from kaalia.reconciler.disk_watch import Space
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.snapshots import Keeping, Snapshots
from kaalia.store import images
from kaalia.store.database import Database

log = logging.getLogger(__name__)


def snapshots(
    engine: DockerEngine,
    machine: str,
    database: Database,
    space: Callable[[], Awaitable[Space]],
    configured_bytes: int | None,
    held: Path,
) -> Snapshots:
    """`configured_bytes`: the owner's low-water mark. `held`: as in `Keeping`."""

    async def mark_private(*names: str) -> None:
        await database.transaction(lambda tx: images.add_private(tx, names))

    async def is_ours(image_id: str) -> bool:
        pulled = await database.read(images.all_pulled)
        return image_id in {one.image_id for one in pulled}

    async def room() -> int:
        found = await space()
        return found.free_bytes - low_water_bytes(found.total_bytes, configured_bytes)

    return Snapshots(engine, machine, Keeping(mark_private, is_ours, room, held))


async def sweep(snapshots: Snapshots) -> None:
    """What a crash left goes at the next start, at the latest."""
    try:
        await snapshots.sweep()
    except KaaliaError as error:
        log.warning("snapshots: what may be left of them stays: %s", error)
