"""The state file: made from nothing, kept through kills, refused when it cannot be trusted."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.errors import StoreError
from kaalia.store import amounts, outbox
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Migrations, Transaction, known_migrations, stream_id
from tests.support.clock import START

TABLES = {
    "amounts",
    "claims",
    "contracts",
    "enrolment",
    "gpu_use",
    "intents",
    "listing",
    "machine",
    "meta",
    "outbox",
    "snapshot",
    "tasks",
    "workloads",
}


async def opened(path: Path, migrations: Migrations | None = None) -> Database:
    database = Database(path, Changes(), migrations)
    await database.open()
    return database


def note(tx: Transaction, text: str = "{}") -> None:
    outbox.add(tx, "workload", text, START)


def count(tx: Transaction) -> int:
    return int(tx.execute("SELECT COUNT(*) AS number FROM outbox").fetchone()["number"])


async def test_an_empty_file_becomes_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch()

    database = await opened(path)
    found = await database.read(lambda tx: tx.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall())
    sync = await database.read(lambda tx: tx.execute("PRAGMA synchronous").fetchone()[0])
    await database.close()

    assert {row["name"] for row in found} >= TABLES
    assert sync == 2


async def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    database = await opened(tmp_path / "state.db")
    await database.close()

    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600


async def test_opening_again_keeps_everything(tmp_path: Path) -> None:
    database = await opened(tmp_path / "state.db")
    await database.transaction(note)
    name = await database.transaction(stream_id)
    await database.close()

    again = await opened(tmp_path / "state.db")

    assert await again.read(count) == 1
    assert await again.transaction(stream_id) == name
    await again.close()


async def test_a_transaction_is_all_or_nothing_and_rings_only_after_it(store: Database, changes: Changes) -> None:
    bell = changes.subscribe(Topic.OUTBOX)

    def half(tx: Transaction) -> None:
        note(tx)
        raise StoreError("claim_taken", "cannot go on")

    with pytest.raises(StoreError, match="cannot go on"):
        await store.transaction(half, Topic.OUTBOX)
    assert not bell.is_set()
    assert await store.read(count) == 0

    await store.transaction(note, Topic.OUTBOX)
    assert bell.is_set()
    assert await store.read(count) == 1


async def test_many_writers_at_once_are_served_in_turn(store: Database) -> None:
    def read_then_write(tx: Transaction) -> None:
        number = count(tx)
        note(tx, str(number))

    await asyncio.gather(*(store.transaction(read_then_write) for _ in range(50)))

    messages = await store.read(lambda tx: outbox.pending(tx, 100))
    assert [message.body for message in messages] == [str(number) for number in range(50)]


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 999")
    raw.close()

    with pytest.raises(StoreError, match="schema 999") as caught:
        await opened(path)

    assert caught.value.code == "state_newer"
    assert caught.value.problem.remedy


async def test_volumes_of_an_older_schema_get_their_bytes_in_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    states = ["creating", "ready", "removing", "failed", "ended", None]
    known = await asyncio.to_thread(known_migrations)
    await (await opened(path, [one for one in known if one[0] <= 14])).close()
    with sqlite3.connect(path) as raw:
        for number, state in enumerate(states, 1):
            status = None if state is None else json.dumps({"volume_id": number, "state": state})
            raw.execute("INSERT INTO volumes VALUES (?, ?, ?, NULL)", (number, '{"size_bytes": 10}', status))
    raw.close()

    database = await opened(path)
    found = await database.read(amounts.all_amounts)
    await database.close()

    assert [(one.owner, one.owner_id, one.amount) for one in found] == [("volume", number, 10) for number in (1, 2, 3)]


@pytest.mark.parametrize("damage", ["garbage", "torn"])
async def test_a_damaged_file_is_corrupt_and_never_begun_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    database = await opened(path)
    for _ in range(200):
        await database.transaction(lambda tx: note(tx, "x" * 500))
    await database.close()
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content[:100] = os.urandom(100)
    else:
        content[4096 * 2 :] = os.urandom(len(content) - 4096 * 2)
    path.write_bytes(content)

    with pytest.raises(StoreError) as caught:
        await opened(path)

    assert caught.value.code == "state_corrupt"
    assert "keep" in caught.value.problem.remedy
    assert path.read_bytes() == bytes(content)


async def test_a_folder_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        await opened(tmp_path / "missing" / "state.db")

    assert caught.value.code == "state_unavailable"


async def test_a_read_only_file_is_unavailable_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    database = await opened(path)
    # Root may write everywhere, so the engine itself is told to refuse.
    await database.read(lambda tx: tx.execute("PRAGMA query_only = ON"))

    with pytest.raises(StoreError) as caught:
        await database.transaction(note)
    assert caught.value.code == "state_unavailable"

    await database.read(lambda tx: tx.execute("PRAGMA query_only = OFF"))
    await database.transaction(note)
    await database.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 1 MB: what a full disk looks like to SQLite."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_is_said_and_goes_on_by_itself(tmp_path: Path, small_files: None) -> None:
    database = await opened(tmp_path / "state.db")
    await database.transaction(note)

    with pytest.raises(StoreError) as caught:
        await database.transaction(lambda tx: note(tx, "x" * 2_000_000))
    assert caught.value.code == "state_disk_full"
    assert "free space" in caught.value.problem.remedy

    assert await database.read(count) == 1
    told = [database.write_problem]
    await database.transaction(count)
    told.append(database.write_problem)
    await database.transaction(note)
    told.append(database.write_problem)
    assert told == [caught.value.problem, caught.value.problem, None], "what writes nothing proves nothing"
    assert await database.read(count) == 2
    await database.close()


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db", Changes())

    with pytest.raises(StoreError) as caught:
        await database.read(count)
    assert caught.value.code == "state_closed"
    await database.close()


OPENS = """
import asyncio, sys
from pathlib import Path
from kaalia.store.changes import Changes
from kaalia.store.database import Database

async def main():
    database = Database(Path(sys.argv[1]), Changes())
    print("ready", flush=True)
    sys.stdin.readline()
    await database.open()
    await database.close()

asyncio.run(main())
"""


async def test_processes_that_make_the_same_database_at_once_all_open_it(tmp_path: Path) -> None:
    def race(path: Path) -> list[str]:
        command, pipe = [sys.executable, "-c", OPENS, str(path)], subprocess.PIPE
        racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        return [racer.communicate()[1] for racer in racers]

    told = [word for number in range(3) for word in await asyncio.to_thread(race, tmp_path / f"{number}.db")]

    assert told == [""] * 12


async def test_threads_that_make_the_same_database_at_once_all_open_it(tmp_path: Path) -> None:
    for number in range(10):
        databases = [Database(tmp_path / f"{number}.db", Changes()) for _ in range(4)]
        await asyncio.gather(*(database.open() for database in databases))
        versions = [await one.read(lambda tx: tx.execute("PRAGMA user_version").fetchone()[0]) for one in databases]
        assert len(set(versions)) == 1
        await asyncio.gather(*(database.close() for database in databases))


async def test_an_older_schema_is_brought_up_to_date_or_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    known = await asyncio.to_thread(known_migrations)
    await (await opened(path, known[:2])).close()
    broken = [*known[:-1], (known[-1][0], "CREATE TABLE half (x); CREATE TABLE half (x);".replace("; ", ";\n"))]
    with pytest.raises(StoreError):
        await opened(path, broken)

    database = await opened(path)

    found = await database.read(lambda tx: tx.execute("SELECT name FROM sqlite_schema").fetchall())
    assert {"half"}.isdisjoint({row["name"] for row in found})
    assert {row["name"] for row in found} >= TABLES | {"journal", "conditions"}
    await database.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.store.test_database import note

async def main():
    database = Database(Path(sys.argv[1]), Changes())
    await database.open()
    for number in range(int(sys.argv[2])):
        await database.transaction(lambda tx: note(tx, str(number)))
    print("committed", flush=True)
    def die(tx):
        note(tx, "half")
        os.kill(os.getpid(), signal.SIGKILL)
    await database.transaction(die)

asyncio.run(main())
"""


async def test_what_was_committed_survives_a_kill_and_what_was_not_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(path), "7"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "committed\n"), ended.stderr

    database = await opened(path)

    messages = await database.read(lambda tx: outbox.pending(tx, 100))
    assert [message.body for message in messages] == [str(number) for number in range(7)]
    await database.close()


async def test_a_refusal_of_the_work_is_no_problem_of_the_database(tmp_path: Path) -> None:
    database = await opened(tmp_path / "state.db")

    def refuse(tx: Transaction) -> None:
        raise StoreError("claim_taken", "cannot claim")

    with pytest.raises(StoreError):
        await database.transaction(refuse)

    assert database.write_problem is None
    await database.close()
