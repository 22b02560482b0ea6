"""Asks the marketplace for the order of a speed test, by a signed request."""

import asyncio
import ssl
from pathlib import Path

from yarl import URL

from kaalia.clock import Clock
from kaalia.errors import MarketplaceError, UnreachableError
from kaalia.store import enrolment
from kaalia.store.database import Database
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.enroll import load_key
from kaalia.wire.speed import SpeedGrant, SpeedRequest
from kaalia.wire.stream import ID_BYTES, KEY_BYTES


class SpeedLink:
    """The way to the marketplace, once this machine is enrolled."""

    def __init__(self, database: Database, state_dir: Path, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self._database = database
        self._state_dir = state_dir
        self._clock = clock
        self._tls = tls

    async def name(self) -> str | None:
        """The marketplace's URL; None: there is none yet."""
        member = await self._database.read(enrolment.get)
        return member.url if member else None

    async def grant(self, request: SpeedRequest) -> tuple[str, SpeedGrant]:
        """The host to connect to, and the order. Raises MarketplaceError, UnreachableError."""
        member = await self._database.read(enrolment.get)
        if member is None:
            raise UnreachableError(
                "not_enrolled",
                "cannot measure the speed: this machine is not enrolled",
                remedy="run: kaalia enroll URL --token-file FILE; or name another peer: kaalia speedtest --peer",
            )
        key = await asyncio.to_thread(load_key, self._state_dir)
        client = MarketplaceClient(member.url, member.machine_id, key, self._clock, self._tls)
        try:
            grant = await client.speed(request)
        finally:
            await client.close()
        host = grant.host or URL(member.url).host
        if not host or not _is_sound(grant):
            raise MarketplaceError("reply_invalid", "cannot understand the marketplace's order of a speed test")
        return host, grant


def _is_sound(grant: SpeedGrant) -> bool:
    try:
        sizes = (len(bytes.fromhex(grant.order)), len(bytes.fromhex(grant.key)))
    except ValueError:
        return False
    is_place = 0 < grant.port < 65536
    return is_place and sizes == (ID_BYTES, KEY_BYTES) and min(grant.streams, grant.seconds, grant.bytes_max) > 0
