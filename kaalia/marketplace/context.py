"""What every handler needs: database, clock, settings, signing key, and the bells that wake waiting machines."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from kaalia.clock import Clock
from kaalia.marketplace.nonces import Nonces
from kaalia.model.availability import Span
from kaalia.prober.bounds import LOOPBACK, Network
from kaalia.prober.work import Prober
from kaalia.wire.speed import SpeedGrant, SpeedRequest

CERTIFICATE_LIFE = timedelta(days=90)
"""Of instances' certificates; machines fetch the next one when two thirds of it are over."""
PROBER_SOCKETS = 384
"""Of the 1024 files that a process usually may open, most are for machines that wait."""


class SpeedSource(Protocol):
    """Gives machines orders of speed tests, and serves the bytes elsewhere."""

    async def grant(self, owner: str, request: SpeedRequest) -> SpeedGrant: ...


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How this marketplace is run. Rates are requests per minute and identity; None switches the limit off."""

    public_url: str
    """Base of absolute URLs in answers, and VAST_URL inside containers; no trailing slash."""
    requests_per_minute: int | None = 6000
    searches_per_minute: int | None = 600
    offline_after_s: float = 180.0
    """A machine that was not heard of for this long is offline: three missed heartbeats of 60 s."""
    relay_silent_after_s: float = 180.0
    """A relay that did not ask for this long gets no new contracts: its polls last 50 s."""
    behind_proxy: bool = False
    """A proxy of ours is in front: the last address of its X-Forwarded-For is the client's."""
    proxies: tuple[Network, ...] = LOOPBACK
    """Where that proxy is: nobody else's word on addresses counts."""
    certificate_life: timedelta = CERTIFICATE_LIFE
    may_probe: tuple[Network, ...] = ()
    """Networks whose addresses may be probed for any machine, inner ones too."""
    verifies_simulated: bool = False
    """Machines with a simulated driver may be verified too: to try this marketplace out."""

    @property
    def trusted_proxies(self) -> tuple[Network, ...]:
        return self.proxies if self.behind_proxy else ()


class Bells:
    """Wakes those who wait for news of a machine. Waiters look at the database; the bell only saves time."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = defaultdict(set)

    def ring(self, machine_id: int) -> None:
        """Call after the transaction has committed."""
        for bell in self._waiting[machine_id]:
            bell.set()

    async def wait(self, machine_id: int, bell: asyncio.Event, timeout_s: float) -> None:
        # Not `wait_for`: in Python 3.11 that one loses a cancellation that comes together with a ring.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await bell.wait()

    def subscribe(self, machine_id: int) -> asyncio.Event:
        """Subscribe before looking at the database, so that no ring falls between look and wait."""
        bell = asyncio.Event()
        self._waiting[machine_id].add(bell)
        return bell

    def unsubscribe(self, machine_id: int, bell: asyncio.Event) -> None:
        self._waiting[machine_id].discard(bell)


@dataclass(slots=True)
class Context:
    """One per application; handlers reach it by `request.app[CONTEXT]`."""

    engine: AsyncEngine
    clock: Clock
    settings: Settings
    signing_key: Ed25519PrivateKey
    epoch: int
    """Made once with the database: a marketplace that lost its history has a greater one."""
    machine_bells: Bells = field(default_factory=Bells)
    """Rung when a machine's desired state changed."""
    relay_bells: Bells = field(default_factory=Bells)
    """Rung with a relay's id when other machines, keys or ports are permitted there."""
    task_bells: dict[str, asyncio.Event] = field(default_factory=dict)
    """By task id: set when the result has come."""
    prober: Prober = field(init=False)
    """Tries the ports of machines that ask for it."""
    speed: SpeedSource | None = None
    """None: this marketplace measures nobody's speed."""
    nonces: Nonces = field(default_factory=Nonces)
    """Of machines' requests, for as long as a copy of one would pass the clock check."""
    away: tuple[Span, ...] = ()
    """When this marketplace did not run, the last month: see `marketplace.away`."""
    looked: tuple[datetime, float] | None = None
    """When it last wrote down that it runs, by both of its clocks."""

    def __post_init__(self) -> None:
        self.prober = Prober(self.settings.may_probe, at_once=PROBER_SOCKETS)


CONTEXT = web.AppKey("context", Context)
