"""The order of a speed test: what a machine asks its marketplace for, and gets. `wire.stream` has the bytes."""

from dataclasses import dataclass, field

PATH_MACHINE_SPEED = "/kaalia/v1/machines/{machine_id}/speed"
"""Signed by the machine's key."""

STREAMS_MAX = 16
SECONDS_MAX = 20
"""Of one direction."""
BYTES_MAX = 32 * 10**9
"""Of one direction, all streams together."""


@dataclass(frozen=True, slots=True)
class SpeedRequest:
    """What the machine would like, of one direction; it gets both, and may get less."""

    streams: int
    seconds: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class SpeedGrant:
    """`order` (16 bytes) and `key` (32 bytes) in hex. `host` None: the host of the marketplace's URL.

    `seconds` and `bytes_max` of one direction, all streams together. Each stream may be opened once each way.
    """

    order: str
    key: str = field(repr=False)
    host: str | None
    port: int
    streams: int
    seconds: int
    bytes_max: int
