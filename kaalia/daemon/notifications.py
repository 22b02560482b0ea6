"""Telling the owner, where he wants to be told: a part of the daemon that is imported only when it is configured."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from kaalia.clock import Clock
from kaalia.config_notify import NotifyConfig
from kaalia.model.health import OWN_CHANNELS
from kaalia.service import Service
from kaalia.store import conditions
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from kaalia.sync.client import HeardTime


class Told(Service, Protocol):
    """Tells the owner."""

    async def hear(self) -> None:
        """The marketplace answered."""
        ...

    def show(self, tx: Transaction, now: datetime) -> object:
        """A wire.notification.NotifyDocument."""
        ...


async def service(config: NotifyConfig, clock: Clock, changes: Changes, database: Database) -> Told | None:
    """None: the owner wants nothing to be told; what was said of his channels before is over. Raises StoreError."""
    if not config.channels:
        now = clock.now()
        await database.transaction(lambda tx: conditions.replace(tx, OWN_CHANNELS, (), now))
        return None
    # Few owners configure it, and every daemon would hold it in memory.
    from kaalia.notify.service import NotificationService  # noqa: PLC0415

    return NotificationService(database, changes, clock, config)


def both(timekeeper: HeardTime, listener: Callable[[], Awaitable[None]]) -> HeardTime:
    async def heard(at: datetime) -> None:
        await timekeeper(at)
        await listener()

    return heard
