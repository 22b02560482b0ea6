"""A disk and an engine on it that work in memory: images take room, containers write, limits hold or do not."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from kaalia.errors import WorkloadError
from kaalia.reconciler.disk_watch import Space
from kaalia.runtime.base import EngineImage, EngineUsage, GrownFile, LimitsUnsure
from kaalia.units import GB


async def _nothing() -> None:
    """No time passes."""


@dataclass
class FakeDisk:
    """`EngineDisk`, `DiskLimits` and `space` in one."""

    total_bytes: int = 1000 * GB
    others_bytes: int = 0
    """What is on the disk beside images."""
    held: dict[str, EngineImage] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    """Contract id -> what its container has written, as Docker says it."""
    holes: dict[int, int] = field(default_factory=dict)
    """Contract id -> how much of that are holes in files."""
    opaque: set[int] = field(default_factory=set)
    """Contracts whose holes cannot be told."""
    grown: dict[int, GrownFile] = field(default_factory=dict)
    """Contract id -> the file of the engine's that its container has filled."""
    unsure: tuple[LimitsUnsure, ...] = ()
    is_down: bool = False
    is_too_slow: bool = False
    """Walking files takes longer than is waited for; all else is answered."""
    measurements: int = 0
    meanwhile: Callable[[], Awaitable[None]] = _nothing
    """What happens while the engine measures or lists: its answer is of before."""
    sweeps: int = 0
    conflicts: set[str] = field(default_factory=set)
    """Images that somebody uses in a way that no list tells."""

    def add_image(
        self, name: str, size_bytes: int = 10 * GB, *, in_use: bool = False, tags: tuple[str, ...] = ()
    ) -> None:
        image_id = f"sha256:{name}"
        self.held[image_id] = EngineImage(image_id, tags or (f"{name}:latest",), size_bytes, in_use)

    def set_in_use(self, name: str, in_use: bool) -> None:
        self.held[f"sha256:{name}"] = replace(self.held[f"sha256:{name}"], in_use=in_use)

    def names(self) -> set[str]:
        return {image_id.removeprefix("sha256:") for image_id in self.held}

    # EngineDisk

    async def usage(self) -> EngineUsage:
        self._answer()
        return EngineUsage(tuple(self.held.values()), tuple(self.sizes.items()), 0, 0)

    async def written(self) -> dict[int, int]:
        self._answer()
        self.measurements += 1
        if self.is_too_slow:
            raise WorkloadError("engine_unavailable", "cannot list containers: no answer within 180 s")
        sizes = dict(self.sizes)
        await self.meanwhile()
        return sizes

    async def allocated(self, contract_id: int, written_bytes: int) -> int | None:
        self._answer()
        return None if contract_id in self.opaque else written_bytes - self.holes.get(contract_id, 0)

    async def empty_grown(self, data_root: str, limit_bytes: int) -> dict[int, GrownFile]:
        self._answer()
        assert data_root
        found = {number: one for number, one in self.grown.items() if one.size_bytes > limit_bytes}
        self.grown = {number: one for number, one in self.grown.items() if number not in found}
        return found

    async def images(self) -> tuple[EngineImage, ...]:
        self._answer()
        held = tuple(self.held.values())
        await self.meanwhile()
        return held

    async def remove_image(self, image_id: str) -> None:
        self._answer()
        found = self.held.get(image_id)
        if found is not None and (found.in_use or image_id in self.conflicts):
            raise WorkloadError("engine_conflict", f"cannot remove image {image_id}", evidence="it is being used")
        self.held.pop(image_id, None)

    async def sweep(self) -> None:
        self.sweeps += 1

    # DiskLimits

    async def check(self, wait_s: float) -> tuple[LimitsUnsure, ...]:
        return self.unsure

    # The file system

    async def space(self) -> Space:
        used = self.others_bytes + sum(one.size_bytes for one in self.held.values())
        return Space(self.total_bytes, self.total_bytes - used)

    def _answer(self) -> None:
        if self.is_down:
            raise WorkloadError("engine_unavailable", "cannot look: the container engine does not answer")
