"""A rented volume as a machine holds it: disk space of its own that outlives the instances which mount it.

creating ──▶ ready ──▶ removing ──▶ ended
    │                     ▲
    └──▶ failed ──────────┘   (`failed`: refused or lost; the problem says why, and no data is made anew)
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem


class VolumeBackend(StrEnum):
    """How a volume's size is enforced, by the file system that holds it."""

    BTRFS = "btrfs"
    """A subvolume with a qgroup limit."""
    XFS = "xfs"
    """A directory with a project quota; needs the mount option pquota."""
    LOOP = "loop"
    """An ext4 file system in a file of that size: any other file system."""


class VolumeState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"
    REMOVING = "removing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """How one volume is doing: the daemon's word, sent to the marketplace. `used_bytes` None: not measured."""

    volume_id: int
    state: VolumeState
    as_of: datetime
    backend: VolumeBackend | None = None
    used_bytes: int | None = None
    problem: Problem | None = None
