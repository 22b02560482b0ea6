"""The disk of a machine that no file system divides: how far an instance may overrun, and when images must go.

Where Docker can, it holds each instance to its size (btrfs, xfs with pquota), and nothing here applies. Elsewhere sizes
are measured and watched: a warning above the rented size, a stop above the margin. Data are kept.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from kaalia.errors import Problem
from kaalia.units import GB, MIB, format_bytes

MARGIN_PERCENT = 10
MARGIN_MIN_BYTES = GB
"""Above its size an instance is warned, above size and margin it is stopped. Sizes are measured once a minute at best,
and file systems and archives need room for a moment: who is at 101 % gets a word first, and time to clean up. The
margin is lent by the machine's owner: a tenth, so that the disk's own reserve (LOW_WATER) outlasts a few of them."""
ENGINE_FILE_BYTES = MIB
"""For each of /etc/hosts, /etc/resolv.conf and /etc/hostname, which the engine keeps outside of every size."""
LOW_WATER_PERCENT = 10
LOW_WATER_MIN_BYTES = 20 * GB
LOW_WATER_MAX_BYTES = 200 * GB
LOW_WATER_MAX_PERCENT = 25
"""A tenth of the disk: below that btrfs and ext4 slow down, and one image may bring 20 GB. No more than 200 GB, which
is several images, and never more than a quarter of a small disk."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """An instance that was measured to hold more than it rented."""

    contract_id: int
    generation: int
    size_bytes: int
    promised_bytes: int
    counts_holes: bool = False
    """The size counts holes in files, which take no room: it really holds this or less."""
    engine_file: str = ""
    """Not its size: this file of the engine's, which no size holds, was filled. It stands until the next generation."""

    @property
    def is_exceeded(self) -> bool:
        """Past the margin: it may not run. Not by a size that may be mostly holes."""
        if self.engine_file:
            return self.size_bytes > self.promised_bytes
        return not self.counts_holes and self.size_bytes > limit_bytes(self.promised_bytes)

    @property
    def warning(self) -> str:
        """For the renter, of what still runs."""
        if self.counts_holes:
            return (
                f"its files, holes counted, come to {format_bytes(self.size_bytes)} "
                f"of the {format_bytes(self.promised_bytes)} rented: delete what is not needed"
            )
        return (
            f"it holds {format_bytes(self.size_bytes)} of the {format_bytes(self.promised_bytes)} rented: "
            f"delete files, above {format_bytes(limit_bytes(self.promised_bytes))} it is stopped"
        )

    @property
    def problem(self) -> Problem:
        if self.engine_file:
            return Problem(
                "engine_file_filled",
                f"cannot run C.{self.contract_id}: it filled {self.engine_file} with {format_bytes(self.size_bytes)}, "
                f"{format_bytes(self.promised_bytes)} are allowed",
                remedy="that file was emptied, its data are kept: recycle it to begin anew, or destroy it",
                evidence=f"measured {self.size_bytes} bytes of blocks, allowed {self.promised_bytes}",
            )
        return Problem(
            "disk_limit_exceeded",
            f"cannot run C.{self.contract_id}: it holds {format_bytes(self.size_bytes)}, "
            f"more than the {format_bytes(self.promised_bytes)} rented and the margin",
            remedy="its data are kept: recycle it to begin anew, or destroy it and rent with more disk",
            evidence=f"measured {self.size_bytes} bytes, rented {self.promised_bytes}, "
            f"stopped above {limit_bytes(self.promised_bytes)}",
        )


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image on the machine. `reference`: by which kaalia pulled it; None: kaalia did not."""

    image_id: str
    tags: tuple[str, ...]
    size_bytes: int
    in_use: bool
    reference: str | None = None
    used_at: datetime | None = None


def limit_bytes(promised_bytes: int) -> int:
    """Above this an instance is stopped where nothing but measuring limits it.

    >>> limit_bytes(100 * GB) // GB, limit_bytes(2 * GB) // GB
    (110, 3)
    """
    return promised_bytes + max(promised_bytes * MARGIN_PERCENT // 100, MARGIN_MIN_BYTES)


def low_water_bytes(total_bytes: int, configured_bytes: int | None = None) -> int:
    """Free space below which unused images go. `configured_bytes`: the owner's word; None: by the size of the disk.

    >>> [low_water_bytes(size * GB) // GB for size in (40, 100, 1000, 8000)]
    [10, 20, 100, 200]
    """
    if configured_bytes is not None:
        return configured_bytes
    share = min(max(total_bytes * LOW_WATER_PERCENT // 100, LOW_WATER_MIN_BYTES), LOW_WATER_MAX_BYTES)
    return min(share, total_bytes * LOW_WATER_MAX_PERCENT // 100)


def evictable(images: Iterable[HeldImage], wanted: Collection[str]) -> tuple[HeldImage, ...]:
    """What may go, the longest unused first: pulled by kaalia, under no other name, without a container, not wanted.

    `wanted`: references and ids that some contract may start from.
    """
    found = [
        one
        for one in images
        if one.reference is not None
        and not one.in_use
        and set(one.tags) <= {one.reference}
        and not {one.image_id, one.reference}.intersection(wanted)
    ]
    return tuple(sorted(found, key=lambda one: (one.used_at is not None, one.used_at, one.image_id)))
