"""The journal through its rebuilding for volumes, and what keeps contracts and volumes of one number apart."""

import asyncio
import sqlite3
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest

from kaalia.errors import StoreError
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.store import journal
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from tests.support.clock import START

RUN = Entry(51, 1, Meter.RUN, Edge.START, START, 2)
VOLUME = Entry(51, 1, Meter.VOLUME, Edge.START, START, 5)


def older(path: Path) -> None:
    """A database of before volumes were counted, with a meter that runs and one that has ended."""
    folder = resources.files("kaalia.store") / "migrations"
    connection = sqlite3.connect(path, isolation_level=None, factory=Transaction)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys=ON")
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".sql") and int(file.name[:4]) < 17:
            connection.executescript(file.read_text())
    connection.execute("PRAGMA user_version=16")
    disk = replace(RUN, meter=Meter.DISK, amount=10)
    ended = replace(RUN, edge=Edge.END, at=START + timedelta(hours=1))
    journal.add(connection, [RUN, disk, ended], START)
    connection.close()


async def test_what_was_counted_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await asyncio.to_thread(older, path)
    database = Database(path, Changes())
    await database.open()

    entries = await database.read(journal.all_entries)
    assert [(one.meter, one.edge) for one in entries] == [("run", "start"), ("disk", "start"), ("run", "end")]
    assert [one.meter for one in await database.read(journal.open_starts)] == [Meter.DISK]
    await database.transaction(lambda tx: journal.add(tx, [VOLUME], START))
    assert await database.read(numbers) == [1, 2, 3, 4]
    for deed in ("UPDATE journal SET amount = 0", "DELETE FROM journal"):
        with pytest.raises(StoreError, match="append-only"):
            await database.transaction(lambda tx, deed=deed: tx.execute(deed))  # type: ignore[misc]
    assert await database.read(lambda tx: tx.execute("PRAGMA foreign_key_check").fetchall()) == []
    await database.close()


async def test_a_contract_and_a_volume_of_one_number_are_counted_apart(store: Database) -> None:
    await store.transaction(lambda tx: journal.add(tx, [RUN, VOLUME], START))

    assert await store.read(lambda tx: journal.all_entries(tx, 51)) == (RUN,)
    assert await store.read(lambda tx: journal.of_volume(tx, 51)) == (VOLUME,)
    assert await store.read(journal.all_entries) == (RUN, VOLUME)
    ended = replace(VOLUME, edge=Edge.END)
    await store.transaction(lambda tx: journal.add(tx, [ended], START))
    assert await store.read(journal.open_starts) == (RUN,)


async def test_sums_of_traffic_are_lines_that_open_no_meter(store: Database) -> None:
    line = Entry(51, 1, Meter.INET_UP, Edge.COUNT, START, 10**15, "running")
    await store.transaction(lambda tx: journal.add(tx, [RUN, line, VOLUME], START))

    assert await store.read(journal.open_starts) == (RUN, VOLUME)
    assert await store.read(lambda tx: journal.all_entries(tx, 51)) == (RUN, line)


def numbers(tx: Transaction) -> list[int]:
    return [row["entry_id"] for row in tx.execute("SELECT entry_id FROM journal ORDER BY entry_id").fetchall()]
