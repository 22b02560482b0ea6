"""A local API on a real unix socket, over a real store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaalia.api.app import LocalApiService
from kaalia.api.context import Context
from kaalia.client import LocalClient
from kaalia.model.usage import ContainerUsage
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.clock import FakeClock


@dataclass(frozen=True)
class Local:
    database: Database
    changes: Changes
    clock: FakeClock
    context: Context
    socket: Path
    client: LocalClient


def usages(container_ids: Iterable[str]) -> dict[str, ContainerUsage]:
    """Each container as if the kernel told this of it: by its number."""
    return {one: ContainerUsage(int(one, 16) / 2, int(one, 16) * 2**20, 1) for one in container_ids}


@contextlib.asynccontextmanager
async def serving(path: Path, context: Context) -> AsyncIterator[None]:
    service = asyncio.ensure_future(LocalApiService(path, context).run())
    ready = asyncio.ensure_future(context.listening.wait())
    await asyncio.wait([service, ready], return_when=asyncio.FIRST_COMPLETED, timeout=5)
    ready.cancel()
    if service.done():
        service.result()
    try:
        yield
    finally:
        service.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await service


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    changes = Changes()
    database = Database(tmp_path / "state.db", changes)
    await database.open()
    clock = FakeClock()
    context = Context(database, clock, clock.now(), usages=usages)
    path = tmp_path / "kaalia.sock"
    async with serving(path, context):
        yield Local(database, changes, clock, context, path, LocalClient(path))
    await database.close()
