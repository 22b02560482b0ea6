"""The record of ends: whole or nothing, and only ever later than a label."""

import asyncio
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kaalia.errors import StoreError
from kaalia.store import contracts, ends
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from tests.support.builders import build_contract
from tests.support.clock import START

SOON, LATE = START + timedelta(hours=1), START + timedelta(days=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def kept(path: Path, agreed: dict[int, datetime | None], now_s: float = 0, have_moved: bool = True) -> None:
    """Books that hold these contracts and no others, and their record."""
    database = Database(path, Changes())
    await database.open()

    def work(tx: Transaction) -> None:
        tx.execute("DELETE FROM contracts")
        for number, end_at in agreed.items():
            contracts.upsert(tx, build_contract(number, end_at=end_at), START)
        ends.keep(tx, START + timedelta(seconds=now_s), have_moved)

    try:
        await database.transaction(work)
    finally:
        await database.close()


async def recorded(path: Path) -> ends.Ends:
    return await asyncio.to_thread(ends.recorded, path)


async def test_ends_come_back_as_they_were_kept(path: Path) -> None:
    await kept(path, {51: LATE, 52: None})

    assert await recorded(path) == {51: LATE, 52: None}
    assert stat.S_IMODE(ends.beside(path).stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir() if ".new" in one.name] == []


async def test_contracts_that_new_books_do_not_know_stay_until_their_end(path: Path) -> None:
    await kept(path, {51: SOON, 52: LATE})
    path.unlink()

    await kept(path, {53: LATE})
    assert await recorded(path) == {51: SOON, 52: LATE, 53: LATE}

    await kept(path, {53: LATE}, now_s=3600)
    assert await recorded(path) == {52: LATE, 53: LATE}


async def test_nothing_is_written_when_no_end_moved(path: Path) -> None:
    await kept(path, {51: SOON})
    before = ends.beside(path).stat()

    await kept(path, {51: SOON, 52: LATE}, have_moved=False)

    assert ends.beside(path).stat().st_ino == before.st_ino
    assert await recorded(path) == {51: SOON}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-10],
        lambda content: content.replace(b"2026", b"2036"),
        lambda content: os.urandom(200),
        lambda content: content + content,
    ],
)
async def test_a_damaged_record_counts_as_none_and_is_mended(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    await kept(path, {51: LATE})
    file = ends.beside(path)
    file.write_bytes(spoil(file.read_bytes()))

    assert await recorded(path) == {}

    await kept(path, {51: LATE}, have_moved=False)
    assert await recorded(path) == {51: LATE}


async def test_an_end_that_cannot_be_recorded_is_not_accepted(path: Path) -> None:
    await kept(path, {51: SOON})
    ends.beside(path).unlink()
    ends.beside(path).mkdir()

    with pytest.raises(StoreError) as caught:
        await kept(path, {51: LATE})

    assert caught.value.code == "state_unavailable"
    database = Database(path, Changes())
    await database.open()
    found = await database.read(lambda tx: contracts.get(tx, 51))
    await database.close()
    assert found is not None
    assert found.end_at == SOON


def test_the_later_of_label_and_record_counts() -> None:
    record = {51: LATE, 52: None}

    assert ends.at_the_latest(SOON, 51, record) == LATE
    assert ends.at_the_latest(LATE, 51, {51: SOON}) == LATE
    assert ends.at_the_latest(SOON, 52, record) is None
    assert ends.at_the_latest(SOON, 53, record) == SOON
    assert ends.at_the_latest(None, 51, record) is None
