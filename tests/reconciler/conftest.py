"""Fixtures of the reconciler's tests."""

from collections.abc import AsyncIterator

import pytest_asyncio

from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.reconciler.rig import Rig
from tests.support.clock import FakeClock
from tests.support.fake_runtime import FakeRuntime


@pytest_asyncio.fixture
async def rig(store: Database, changes: Changes, clock: FakeClock) -> AsyncIterator[Rig]:
    """A reconciler on a listed machine with two GPUs; nothing is agreed yet."""
    made = Rig(store, changes, clock, FakeRuntime(clock))
    await made.prepare()
    yield made
    await made.service.detach()
    assert made.runtime.violations == []
