"""Volumes in memory, as `runtime.base.Volumes`: they can be lost, be in use, or fail."""

from kaalia.contracts.volume import Volume
from kaalia.errors import HostError, KaaliaError, WorkloadError
from kaalia.model.volume import VolumeBackend


class FakeVolumes:
    """`keys`: what lies on the disk, volume id -> key."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.mounted: set[int] = set()
        self.fails_with: KaaliaError | None = None
        self.fails_to_open: KaaliaError | None = None
        self.taken: dict[int, int] = {}
        """What volumes take of the disk, where that is not nothing."""
        self.unreadable: set[int] = set()
        """Volumes whose file system does not tell what they hold."""

    @property
    def place(self) -> str:
        return "/volumes"

    async def open(self) -> VolumeBackend:
        if self.fails_to_open is not None:
            raise self.fails_to_open
        return VolumeBackend.LOOP

    async def make(self, volume: Volume) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        if self.keys.setdefault(volume.volume_id, volume.key) != volume.key:
            raise WorkloadError("volume_taken", f"cannot make volume {volume.volume_id}: another is here")

    async def ready(self, volume: Volume) -> str:
        if self.keys.get(volume.volume_id) != volume.key:
            raise WorkloadError("volume_missing", f"cannot find volume {volume.volume_id}")
        return f"/volumes/V.{volume.volume_id}"

    async def used_bytes(self, volume_id: int) -> int | None:
        if volume_id in self.unreadable:
            raise HostError("command_failed", f"cannot run `btrfs qgroup show V.{volume_id}`: exit code 1")
        return 0 if volume_id in self.keys else None

    async def taken_bytes(self, volume_id: int) -> int | None:
        return self.taken.get(volume_id, await self.used_bytes(volume_id))

    async def remove(self, volume_id: int, key: str | None) -> None:
        if volume_id in self.mounted:
            raise WorkloadError("volume_in_use", f"cannot remove volume {volume_id}: a container has it mounted")
        if key in (None, self.keys.get(volume_id)):
            self.keys.pop(volume_id, None)

    async def found(self) -> tuple[int, ...]:
        return tuple(sorted(self.keys))
