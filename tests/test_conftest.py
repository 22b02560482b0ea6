"""The guard of the event loop is awake: it sees kaalia's own blocking calls, and lets tests do theirs."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest
from blockbuster import BlockingError

from kaalia import config, service
from kaalia.store.database import Database
from tests.support.clock import START, FakeClock


async def test_a_blocking_call_of_kaalia_is_caught(tmp_path: Path) -> None:
    (tmp_path / "kaalia.yaml").write_text("{}")

    with pytest.raises(BlockingError, match="Blocking call to"):
        config.load(tmp_path / "kaalia.yaml", {})


async def test_a_turn_of_a_service_that_sleeps_is_caught() -> None:
    caught: list[BaseException] = []

    async def turn() -> None:
        try:
            time.sleep(0)
        except BlockingError as error:
            caught.append(error)
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await service.run_forever("sleepy", turn)
    assert caught


async def test_a_test_may_block(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    time.sleep(0)

    assert (tmp_path / "x").read_text() == "x"


async def test_store_fixture_is_an_open_database(store: Database) -> None:
    assert await store.read(lambda tx: tx.execute("SELECT 1").fetchone()[0]) == 1


def test_clock_fixture_moves_only_when_told(clock: FakeClock) -> None:
    before = clock.monotonic_s()

    assert clock.now() == START
    clock.advance(90)
    assert clock.now() - START == timedelta(seconds=90)
    assert clock.monotonic_s() - before == 90
