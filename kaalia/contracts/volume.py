"""Volumes as agreed, and how one disk is shared between them and instances.

Volume offers and instances draw on one pool: an offer takes nothing from the pool until some of it is rented.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kaalia.errors import ContractError
from kaalia.units import GB

MIN_VOLUME_GB = 1
VOLUME_ID_MAX = 2**31 - 1
"""A volume's id is also its number in the file system's quotas, which have 32 bits."""
NAME_MAX_CHARS = 64


class VolumeDesired(StrEnum):
    """`ended` is the signed tombstone: remove the data."""

    PRESENT = "present"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Volume:
    """One rented volume. `key` is random: it tells the volume from another one that was given the same id."""

    volume_id: int
    key: str
    size_bytes: int
    desired: VolumeDesired
    copy_of: int | None = None
    """Begins as a copy of this volume of the same machine."""
    end_at: datetime | None = None
    """No contract that begins later may mount it; the data stay until the tombstone. None: no end."""


def offer_space(listed_bytes: int, rented_bytes: int, free_bytes: int) -> int:
    """What a volume offer still has: the listed size less what is rented of it, never more than is free.

    `free_bytes`: of the disk, less what instances and volumes were promised. Documented example, 1000 GB:

    >>> offer_space(500, 200, 800), offer_space(500, 0, 200), offer_space(500, 0, 600)
    (300, 200, 500)
    """
    return max(0, min(listed_bytes - rented_bytes, free_bytes))


def default_size_gb(free_bytes: int) -> int:
    """What is listed when the owner does not say: half of the free disk, in whole GB."""
    return max(0, free_bytes // 2 // GB)


def check_size(size_gb: Decimal, space_bytes: int) -> None:
    """Raises ContractError `volume_size_invalid` for a size that cannot be rented of `space_bytes`."""
    if size_gb.is_finite() and MIN_VOLUME_GB <= size_gb <= Decimal(space_bytes) / GB:
        return
    message = f"cannot make a volume of size={size_gb} GB: the offer has {Decimal(space_bytes) / GB:.1f} GB left"
    remedy = f"ask for {MIN_VOLUME_GB} to {space_bytes // GB} GB, or search for another offer"
    raise ContractError("volume_size_invalid", message, remedy=remedy)


def check_name(name: str | None) -> str | None:
    """The name, None when blank. Raises ContractError `volume_name_invalid`."""
    name = None if name is None else name.strip()
    if not name:
        return None
    if not re.fullmatch(rf"[A-Za-z0-9_]{{1,{NAME_MAX_CHARS}}}", name):
        message = f"cannot call a volume name={name[:80]!r}: letters, digits and _ only, {NAME_MAX_CHARS} at most"
        raise ContractError("volume_name_invalid", message, remedy="choose another name, or leave it out")
    return name


def check_mount(volume: Volume, start_at: datetime) -> None:
    """Raises ContractError `volume_expired` when a contract that began at `start_at` must not mount the volume."""
    if volume.end_at is None or start_at < volume.end_at:
        return
    message = f"cannot mount volume {volume.volume_id}: its contract ended at {volume.end_at:%Y-%m-%d %H:%M} UTC"
    remedy = "rent another volume; instances that had this one before its end still reach the data"
    raise ContractError("volume_expired", message, remedy=remedy)
