"""The daemon's SQLite database: one writer thread, WAL, synchronous=FULL, numbered migrations.

The only importer of sqlite3. Noun files hold functions that take a `Transaction`; several of them
composed in one `transaction()` commit together or not at all.
"""

import asyncio
import errno
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from kaalia.errors import Problem, StoreError
from kaalia.store.changes import Changes, Topic

T = TypeVar("T")
LATER_S = 1.0
"""Delay of a bell that may ring later."""

Migrations = Sequence[tuple[int, str]]
"""Number and SQL of each, the lowest first."""

_CANNOT_WRITE = frozenset({"state_disk_full", "state_corrupt", "state_unavailable"})
"""What is wrong with the database itself; other refusals are of the work that was to be done."""
_SWITCH_TRIES = 100
_SWITCH_WAIT_S = 0.02
_REMEDY_SPACE = "free space in the state directory, then the daemon goes on by itself"


class Transaction(sqlite3.Connection):
    """An open transaction; noun functions take it first. `rings`: what else to ring after its commit."""

    rings: set[Topic]


class Database:
    """Opened once by the daemon. All methods may be called from the event loop; none blocks it.

    `migrations`: those to bring it to; None: all of this version.
    """

    def __init__(self, path: Path, changes: Changes, migrations: Migrations | None = None) -> None:
        self._path = path
        self._changes = changes
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: Transaction | None = None
        self._write_problem: Problem | None = None

    @property
    def write_problem(self) -> Problem | None:
        """Why the last transaction with a change could not be written; None: it was."""
        return self._write_problem

    async def open(self) -> None:
        """Open, check and migrate. Raises StoreError `state_corrupt`, `state_newer` or `state_unavailable`."""
        await self._on_thread(self._open)

    async def transaction(self, work: Callable[[Transaction], T], *rings: Topic, ring_later: Topic | None = None) -> T:
        """Run `work` in one durable transaction, then ring the bell of each topic. Raises StoreError."""
        result, found = await self._on_thread(lambda: self._commit(work))
        for topic in {*rings, *found}:
            self._changes.ring(topic)
        if ring_later is not None:
            self._changes.ring_later(ring_later, LATER_S)
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a read; it sees every transaction committed before it."""
        return await self._on_thread(lambda: _guarded(lambda: work(self._open_connection())))

    async def close(self) -> None:
        if self._connection is not None:
            await self._on_thread(self._connection.close)
        self._connection = None
        self._thread.shutdown(wait=True)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open_connection(self) -> Transaction:
        if self._connection is None:
            raise StoreError("state_closed", "cannot use the state database: it is not open")
        return self._connection

    def _commit(self, work: Callable[[Transaction], T]) -> tuple[T, frozenset[Topic]]:
        """The result, and what `work` itself found to be rung."""
        connection = self._open_connection()
        changes_before = connection.total_changes
        connection.rings = set()

        def run() -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        try:
            result = _guarded(run)
        except StoreError as error:
            if error.code in _CANNOT_WRITE:
                self._write_problem = error.problem
            raise
        if connection.total_changes > changes_before:
            self._write_problem = None
        return result, frozenset(connection.rings)

    def _open(self) -> None:
        def run() -> Transaction:
            self._path.touch(mode=0o600, exist_ok=True)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, factory=Transaction)
            connection.row_factory = sqlite3.Row
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            _check(connection, self._path)
            _migrate(connection, self._path, self._migrations or known_migrations())
            return connection

        self._connection = _guarded(run)


def read_only(path: Path, work: Callable[[Transaction], T]) -> T:
    """A read from outside the daemon, whether it runs or not: nothing is made, migrated or locked. Blocks.

    Raises StoreError.
    """

    def run() -> T:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, factory=Transaction)) as connection:
            connection.row_factory = sqlite3.Row
            return work(connection)

    return _guarded(run)


def stream_id(tx: Transaction) -> str:
    """A random name of this database, made at its creation: outbox numbers are unique within it."""
    tx.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('stream_id', ?)", (uuid4().hex,))
    row = tx.execute("SELECT value FROM meta WHERE key = 'stream_id'").fetchone()
    return str(row["value"])


def renew_stream_id(tx: Transaction) -> str:
    """Another name: this database turned out to be an older copy, whose numbers were used already."""
    tx.execute("DELETE FROM meta WHERE key = 'stream_id'")
    return stream_id(tx)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. Here SQLite does not wait for another process that is just doing the same."""
    for is_last in (*[False] * _SWITCH_TRIES, True):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if is_last or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        time.sleep(_SWITCH_WAIT_S)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreError("state_corrupt", f"cannot use {path}: {verdict}", remedy=_remedy_corrupt(path))


def known_migrations() -> list[tuple[int, str]]:
    """Of this version, in order. Reads files."""
    folder = resources.files("kaalia.store") / "migrations"
    files: Iterable[str] = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text()) for name in files]


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    """All that is missing, in one transaction. The schema's number is read inside it: another process may be at it."""
    newest = migrations[-1][0]
    if _schema(connection, path, newest) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        have = _schema(connection, path, newest)
        for number, script in migrations:
            if number > have:
                for statement in _statements(script):
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version={newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _schema(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """The number of the last migration that the database has had. Raises StoreError `state_newer`."""
    have = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if have > newest:
        raise StoreError(
            "state_newer",
            f"cannot use {path}: it has schema {have}, this version of kaalia knows {newest}",
            remedy="install the newer kaalia again; tenants run on meanwhile",
        )
    return have


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _guarded(work: Callable[[], T]) -> T:
    """Map SQLite's errors to ours."""
    try:
        return work()
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "disk is full" in text or "disk I/O" in text:
            raise StoreError("state_disk_full", f"cannot write the state: {text}", remedy=_REMEDY_SPACE) from error
        if "malformed" in text or "not a database" in text:
            raise StoreError("state_corrupt", f"cannot read the state: {text}", remedy=_remedy_corrupt()) from error
        raise StoreError("state_unavailable", f"cannot use the state database: {text}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError("state_disk_full", f"cannot write the state: {error}", remedy=_REMEDY_SPACE) from error
        raise StoreError("state_unavailable", f"cannot use the state database: {error}") from error


def _remedy_corrupt(path: Path | None = None) -> str:
    name = path if path else "the state database"
    return f"keep {name} for inspection and restore a copy; tenants run on, nothing is admitted meanwhile"
