"""Long-running parts: the `Service` protocol, the loop guard, and the task group that owns every task.

Tasks are created here and nowhere else, so that nothing runs that nobody awaits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from kaalia.errors import KaaliaError

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits after consecutive failures of one loop; the last one repeats."""


class Service(Protocol):
    """Runs until cancelled. Cancellation detaches: it never stops a tenant."""

    name: str

    async def run(self) -> None: ...


async def run_forever(name: str, turn: Callable[[], Awaitable[None]]) -> None:
    """Repeat `turn`. The one loop that logs an unexpected error, backs off and goes on."""
    failures = 0
    while True:
        try:
            await turn()
            failures = 0
        except KaaliaError as error:
            log.warning("%s: %s", name, error)
            failures += 1
        except Exception:
            log.exception("%s: unexpected error, going on", name)
            failures += 1
        if failures:
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])


async def answer_anyway(name: str, work: Awaitable[T], otherwise: Callable[[], T]) -> T:
    """The guard of one request: an unexpected error is logged under `name`, and `otherwise` answers in its place."""
    try:
        return await work
    except Exception:
        log.exception("%s: unexpected error", name)
        return otherwise()


async def side_by_side(*works: Coroutine[Any, Any, None]) -> None:
    """All of them at once. The first error cancels the others, waits until they are gone, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def guarded(work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, None]) -> T:
    """`work`, broken off with the error of `guard` as soon as that raises one. Both are gone when this returns."""
    tasks = asyncio.create_task(work), asyncio.create_task(guard)
    working, guarding = tasks
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            guarding.result()
        return await working
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_services(services: list[Service], stop: asyncio.Event) -> None:
    """Run all services until `stop` is set or one of them ends with an error; then cancel the rest."""
    tasks = [asyncio.create_task(service.run(), name=service.name) for service in services]
    stopper = asyncio.create_task(stop.wait(), name="stop")
    done, pending = await asyncio.wait([*tasks, stopper], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


class Tasks:
    """Background tasks keyed by what they work on: at most one task a key."""

    def __init__(self) -> None:
        self._tasks: dict[object, asyncio.Task[None]] = {}

    def start(self, key: object, work: Coroutine[Any, Any, None]) -> None:
        """Start `work` for `key`. The caller has checked `busy(key)`."""
        task = asyncio.create_task(work, name=str(key))
        self._tasks[key] = task

        def ended(_: asyncio.Task[None]) -> None:
            # Another may have begun between the end of this one and now.
            if self._tasks.get(key) is task:
                del self._tasks[key]

        task.add_done_callback(ended)

    def busy(self, key: object) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def cancel(self, key: object) -> None:
        if task := self._tasks.get(key):
            task.cancel()

    async def close(self) -> None:
        """Cancel everything and wait until it is gone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
