"""Waiting until the store says that something is so."""

import asyncio
from collections.abc import Callable, Iterable

from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

LOOK_S = 1.0
"""A bell ends the wait sooner."""


async def until(
    changes: Changes, topics: Iterable[Topic], database: Database, what: Callable[[Transaction], bool], within_s: float
) -> bool:
    """False: it did not come true in time."""
    bell = changes.subscribe(*topics)
    try:
        async with asyncio.timeout(within_s):
            while not await database.read(what):
                await wait(bell, LOOK_S)
    except TimeoutError:
        return False
    finally:
        changes.unsubscribe(bell)
    return True
