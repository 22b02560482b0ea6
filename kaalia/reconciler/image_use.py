"""Images that a launch is about to need, so that none is removed between the look for it and the container.

A launch and a removal of the same image exclude each other; launches wait for a removal under way, at most.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from kaalia.errors import WorkloadError
from kaalia.runtime.container.images import normalise


class ImageUse:
    """One for the launches and the removals of a machine."""

    def __init__(self) -> None:
        self._users = Counter[str]()
        self._removing = asyncio.Lock()

    @asynccontextmanager
    async def using(self, reference: str) -> AsyncIterator[None]:
        """Nobody removes the image of this name while the context lasts."""
        name = plain_name(reference)
        async with self._removing:
            self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1

    async def remove(self, names: Collection[str], work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work`, which removes the image of these names. False: a launch needs it, nothing was done."""
        async with self._removing:
            if any(self._users[name] for name in names):
                return False
            await work()
            return True


def plain_name(reference: str) -> str:
    """The name under which the engine holds it; what is no name stays as it is."""
    try:
        return normalise(reference)
    except WorkloadError:
        return reference
