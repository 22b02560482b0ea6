"""Who copies now, and who waits: so many at a time, and few of them of one instance or volume."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from kaalia.model.copying import Holder

AT_ONCE_MAX = 4
"""On one machine, of one kind: between holders, or with clouds. Others wait."""
HOLDER_MAX = 2
"""The same of one holder, so that none has all turns for the day that a copy with a cloud may take."""
HOLDER_ORDERS_MAX = 4
"""Of one kind and one holder, going on or waiting. More are refused."""
ORDERS_MAX = 16
"""Of one kind, going on or waiting. More are refused."""


class Turns:
    """Of one kind of copies. Given in order, but for those of a holder that has enough."""

    def __init__(self) -> None:
        self._going: dict[asyncio.Event, Sequence[Holder]] = {}
        self._waiting: dict[asyncio.Event, Sequence[Holder]] = {}

    @asynccontextmanager
    async def taken(self, holders: Sequence[Holder], wait: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """A turn for as long as the context lasts. `wait` is called when there is none yet."""
        mine = asyncio.Event()
        self._waiting[mine] = holders
        self._give()
        try:
            if not mine.is_set():
                await wait()
            await mine.wait()
            yield
        finally:
            self._waiting.pop(mine, None)
            self._going.pop(mine, None)
            self._give()

    def _give(self) -> None:
        for one, holders in list(self._waiting.items()):
            if len(self._going) < AT_ONCE_MAX and all(self._count(each) < HOLDER_MAX for each in holders):
                self._going[one] = self._waiting.pop(one)
                one.set()

    def _count(self, holder: Holder) -> int:
        return sum(holder in holders for holders in self._going.values())
