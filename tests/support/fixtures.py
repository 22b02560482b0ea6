"""Fixtures that any test may ask for by name: a clock that stands still and an opened state database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def changes() -> Changes:
    """The bell that `store` rings."""
    return Changes()


@pytest_asyncio.fixture
async def store(tmp_path: Path, changes: Changes) -> AsyncIterator[Database]:
    """A real database in a folder of its own, opened and migrated."""
    database = Database(tmp_path / "state.db", changes)
    await database.open()
    yield database
    await database.close()
