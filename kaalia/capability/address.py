"""Notices that this machine's addresses changed, and rings: the report, the heartbeat and the probes then look anew."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from kaalia.capability import network
from kaalia.errors import HostError
from kaalia.host.links import LinkNews
from kaalia.service import run_forever
from kaalia.store.changes import Changes, Topic

SETTLE_S = 1.0
"""A change is a handful of messages: the old address goes, the new one comes, routes follow. So does a container."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """By which others reach this machine. `routed`: of the default route's interface; None: there is none."""

    routed: str | None
    local: frozenset[str]


def read() -> Addresses:
    return Addresses(routed(), frozenset(network.local_ips()))


def routed() -> str | None:
    try:
        return network.routed_address()
    except HostError:
        return None


class AddressService:
    """Where the kernel tells nothing, the report's own interval finds the change."""

    name = "address"

    def __init__(
        self,
        changes: Changes,
        look: Callable[[], Addresses] = read,
        news: Callable[[], LinkNews] = LinkNews,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._changes = changes
        self._look = look
        self._open_news = news
        self._settle_s = settle_s
        self._known: Addresses | None = None

    async def run(self) -> None:
        try:
            news = self._open_news()
        except HostError as error:
            log.warning("address: %s", error)
            await asyncio.Event().wait()
            return
        try:
            self._known = await asyncio.to_thread(self._look)
            await run_forever(self.name, lambda: self._turn(news))
        finally:
            news.close()

    async def _turn(self, news: LinkNews) -> None:
        await news.next()
        await asyncio.sleep(self._settle_s)
        news.forget()
        found = await asyncio.to_thread(self._look)
        if found != self._known:
            log.info("address: this machine has %s now", ", ".join(sorted(found.local)) or "no address")
            self._known = found
            self._changes.ring(Topic.ADDRESS)
