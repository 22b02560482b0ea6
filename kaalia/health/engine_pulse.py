"""Notices within seconds that the container engine hangs: it takes a question, and says nothing.

An engine that is slow, however slow, answers the smallest question at once (see `runtime.container.ping`), so nothing
that it is asked besides has to be given up sooner for this. One that is gone is no matter of this: whoever asks hears
it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from kaalia.errors import WorkloadError
from kaalia.service import run_forever
from kaalia.store.changes import Changes, Topic

EVERY_S = 3.0
"""A question takes less than 0.1 ms of the processor here: 0.002 % of a core."""
SILENCE_S = 5.0
"""Beside a load of 8 on two processors the answer takes some milliseconds."""


Answer = Callable[[], Awaitable[None]]
"""Waits for it; cancelled, it may be called again."""


class EnginePulse:
    """`ask`: puts the question. Rings `Topic.ENGINE` when the engine falls silent, and when it speaks again."""

    name = "engine-pulse"

    def __init__(
        self,
        ask: Callable[[], AbstractAsyncContextManager[Answer]],
        changes: Changes,
        every_s: float = EVERY_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._ask = ask
        self._changes = changes
        self._every_s = every_s
        self._silence_s = silence_s
        self._is_silent = False
        self._waiting: set[asyncio.Timeout] = set()

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Around a call of the engine: it is given up as soon as the engine is silent, and not begun while it is.

        Raises WorkloadError `engine_unavailable`.
        """
        if self._is_silent:
            raise self._hung()
        try:
            async with asyncio.timeout(None) as limit:
                self._waiting.add(limit)
                try:
                    yield
                finally:
                    self._waiting.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._hung() from None

    async def _turn(self) -> None:
        with suppress(WorkloadError):
            async with self._ask() as answer:
                try:
                    async with asyncio.timeout(self._silence_s):
                        await answer()
                except TimeoutError:
                    self._note(is_silent=True)
                    await answer()  # on the same line: who hangs for days has one caller
        self._note(is_silent=False)
        await asyncio.sleep(self._every_s)

    def _note(self, *, is_silent: bool) -> None:
        if is_silent == self._is_silent:
            return
        self._is_silent = is_silent
        if is_silent:
            now_s = asyncio.get_running_loop().time()
            for limit in self._waiting:
                limit.reschedule(now_s)
        self._changes.ring(Topic.ENGINE)

    def _hung(self) -> WorkloadError:
        return WorkloadError(
            "engine_unavailable",
            "cannot ask the container engine: it hangs",
            remedy="see journalctl -u docker, and what dockerd waits for: ps -eo state,pid,wchan,cmd | grep dockerd",
            evidence=f"it took GET /_ping, and did not answer within {self._silence_s:g} s",
        )
