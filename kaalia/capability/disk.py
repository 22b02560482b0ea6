"""The disk that tenants share: the file system that holds the engine's data root."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.errors import HostError
from kaalia.host import block
from kaalia.model.machine import Disk
from kaalia.model.volume import VolumeBackend

VolumeBackendAt = Callable[[str], Awaitable[VolumeBackend]]
"""By Docker's data root, how volumes are held to their size. Raises HostError."""


async def collect(
    data_root: str | None, root: Path, gaps: Gaps, volume_backend: VolumeBackendAt | None = None
) -> Disk | None:
    """None with a reason when the data root is unknown (the engine does not answer) or its file system does not."""
    if data_root is None:
        gaps.note("disk", "the container engine does not answer, so its data root is not known")
        return None
    try:
        filesystem = await block.filesystem(Path(data_root))
    except HostError as error:
        evidence = error.problem.evidence.strip()
        gaps.note("disk", f"{error.problem.message}: {evidence}" if evidence else error)
        return None
    model = await asyncio.to_thread(gaps.read, "disk.model", lambda: block.drive_model(filesystem.device, root))
    return Disk(
        path=data_root,
        total_bytes=filesystem.total_bytes,
        free_bytes=filesystem.free_bytes,
        filesystem=filesystem.kind,
        device=filesystem.device,
        model=model,
        volume_backend=await _backend(data_root, gaps, volume_backend),
    )


async def _backend(data_root: str, gaps: Gaps, volume_backend: VolumeBackendAt | None) -> VolumeBackend | None:
    if volume_backend is None:
        return None
    try:
        return await volume_backend(data_root)
    except HostError as error:
        gaps.note("disk.volume_backend", error)
        return None
