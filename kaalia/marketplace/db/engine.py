"""Opens the marketplace's database: SQLite in the data directory, or any URL that SQLAlchemy's asyncio drivers know."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kaalia.marketplace.db import (
    authority_tables,
    availability_tables,
    copy_tables,
    fitness_tables,
    relay_tables,
    schedule_tables,
    snapshot_tables,
    verification_tables,
)

DATABASE_FILE = "marketplace.db"
_MAKING = 0x6B61616C6961
"""The lock under which tables are made; any number that nobody else takes."""


def sqlite_url(data_dir: Path) -> str:
    """The embedded database of a data directory."""
    return f"sqlite+aiosqlite:///{data_dir / DATABASE_FILE}"


async def open_engine(url: str) -> AsyncEngine:
    """Connect and create what is missing. Use `async with engine.begin() as tx:` for each transaction."""
    # Parameters are hidden in errors, which are logged: renters' secrets are among them.
    if not url.startswith("sqlite"):
        engine = create_async_engine(url, hide_parameters=True)
    else:
        # SQLite has one writer at a time anyway. Waiting for one connection is a queue; waiting for SQLite's lock is
        # a lottery: at 10 requests at once the slowest of 400 took 1.2 s, in a queue 0.2 s.
        engine = create_async_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
    async with engine.begin() as tx:
        if engine.dialect.name == "postgresql":  # several processes may begin at once, and none may make a table twice
            await tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
        for tables in (
            relay_tables,
            snapshot_tables,
            authority_tables,
            availability_tables,
            copy_tables,
            fitness_tables,
            schedule_tables,
            verification_tables,
        ):  # one metadata: naming the modules is what makes it whole
            await tx.run_sync(tables.metadata.create_all)
    return engine


async def insert_new(tx: AsyncConnection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Those whose key is not there yet: another process may have been faster, which is no error."""
    if rows:
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        await tx.execute(insert(table).on_conflict_do_nothing(), rows)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # FULL: a power cut that took back a commit would leave machines with revisions that were never given out.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A deferred transaction that reads and then writes fails when another one wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
