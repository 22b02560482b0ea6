"""Snapshots as the marketplace asks for them: the login is fetched once, and how it goes is told every few seconds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kaalia.clock import Clock
from kaalia.errors import KaaliaError, MarketplaceError, Problem
from kaalia.runtime.base import Progress, RegistryLogin
from kaalia.service import Tasks
from kaalia.sync.client import MarketplaceClient
from kaalia.wire.protocol import TaskRequest, TaskResult

log = logging.getLogger(__name__)

TELL_EVERY_S = 3.0

TakeSnapshot = Callable[[TaskRequest, RegistryLogin | None, Progress], Awaitable[str]]
"""To the digest that the registry was given. Raises WorkloadError."""


def interrupted(request: TaskRequest) -> TaskResult:
    """What is told of one that ended with the daemon: the login was in memory only, so it cannot go on."""
    message = f"cannot finish the snapshot of C.{request.contract_id} to {request.image}: the daemon ended meanwhile"
    return TaskResult("", Problem("snapshot_interrupted", message, remedy="take the snapshot again"))


class SnapshotTasks:
    """`take` does it. The login is held while it lasts, and nowhere else."""

    def __init__(self, client: MarketplaceClient, clock: Clock, take: TakeSnapshot) -> None:
        self._client = client
        self._clock = clock
        self._take = take
        self._telling = Tasks()

    async def answer(self, request: TaskRequest) -> TaskResult:
        """The final result, whenever it is there."""
        try:
            login = await self._login(request.task_id)
            digest = await self._take(request, login, self._progress(request))
        except KaaliaError as error:
            log.warning("snapshot of contract %d: %s", request.contract_id, error)
            return TaskResult("", error.problem)
        return TaskResult(f"snapshot pushed to {request.image}, {digest}")

    async def close(self) -> None:
        await self._telling.close()

    async def _login(self, task_id: str) -> RegistryLogin | None:
        try:
            reply = await self._client.task_login(task_id)
        except MarketplaceError as error:
            if error.code == "login_unknown":
                return None
            raise
        return RegistryLogin(reply.registry, reply.username, reply.password)

    def _progress(self, request: TaskRequest) -> Progress:
        """The newest line is told, however it came, and not more often than TELL_EVERY_S."""
        newest, told, told_at_s = "", "", self._clock.monotonic_s() - TELL_EVERY_S

        async def catch_up() -> None:
            nonlocal told, told_at_s
            while told != newest:
                await asyncio.sleep(max(0.0, told_at_s + TELL_EVERY_S - self._clock.monotonic_s()))
                told, told_at_s = newest, self._clock.monotonic_s()
                await self._tell(request.task_id, told)

        def tell(line: str) -> None:
            nonlocal newest
            newest = line
            if not self._telling.busy(request.task_id):
                self._telling.start(request.task_id, catch_up())

        return tell

    async def _tell(self, task_id: str, line: str) -> None:
        """What does not arrive is told better by the next line."""
        try:
            await self._client.put_result(task_id, TaskResult(line, is_final=False))
        except MarketplaceError as error:
            log.debug("snapshot: %s", error)
