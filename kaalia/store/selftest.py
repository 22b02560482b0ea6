"""Tests of the whole machine: the order, where it is, what was seen, and the end of it. The newest few are kept."""

from collections.abc import Sequence
from datetime import datetime

from kaalia.model.selftest import Sample, SelfTestOrder, SelfTestProgress, SelfTestRun
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

PURPOSE = "selftest"
"""Of its contracts."""
RUNS_KEPT = 10


def order(tx: Transaction, wanted: SelfTestOrder) -> SelfTestRun:
    """A run with a number of its own. The caller has seen that none is open."""
    row = tx.execute("SELECT max(run_id) AS newest FROM selftest_runs").fetchone()
    made = SelfTestRun((row["newest"] or 0) + 1, wanted)
    put(tx, made)
    for table in ("selftest_samples", "selftest_runs"):
        tx.execute(f"DELETE FROM {table} WHERE run_id <= ?", (made.run_id - RUNS_KEPT,))  # noqa: S608 our own names
    return made


def put(tx: Transaction, run: SelfTestRun) -> None:
    """One that has ended has no progress any more."""
    document = adapter(SelfTestRun).dump_json(run).decode()
    tx.execute(
        """INSERT INTO selftest_runs (run_id, document, is_open) VALUES (?, ?, ?)
             ON CONFLICT (run_id) DO UPDATE SET document = excluded.document, is_open = excluded.is_open""",
        (run.run_id, document, run.result is None),
    )
    if run.result is not None:
        tx.execute("DELETE FROM selftest_progress")


def get(tx: Transaction, run_id: int) -> SelfTestRun | None:
    row = tx.execute("SELECT document FROM selftest_runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else _run(row["document"])


def newest(tx: Transaction) -> SelfTestRun | None:
    row = tx.execute("SELECT document FROM selftest_runs ORDER BY run_id DESC LIMIT 1").fetchone()
    return None if row is None else _run(row["document"])


def open_run(tx: Transaction) -> SelfTestRun | None:
    """The one that is ordered or runs."""
    return next(iter(open_runs(tx)), None)


def open_runs(tx: Transaction) -> tuple[SelfTestRun, ...]:
    """A second one was ordered by the owner, while one that a marketplace wants was waiting."""
    rows = tx.execute("SELECT document FROM selftest_runs WHERE is_open ORDER BY run_id").fetchall()
    return tuple(_run(row["document"]) for row in rows)


def cancel(tx: Transaction, run_id: int, now: datetime) -> None:
    """Somebody wants its end; the service that runs it looks."""
    query = "UPDATE selftest_runs SET cancelled_at = ? WHERE run_id = ? AND is_open AND cancelled_at IS NULL"
    tx.execute(query, (now.timestamp(), run_id))


def is_cancelled(tx: Transaction, run_id: int) -> bool:
    query = "SELECT 1 FROM selftest_runs WHERE run_id = ? AND cancelled_at IS NOT NULL"
    return tx.execute(query, (run_id,)).fetchone() is not None


def put_progress(tx: Transaction, progress: SelfTestProgress) -> None:
    document = adapter(SelfTestProgress).dump_json(progress).decode()
    tx.execute("INSERT OR REPLACE INTO selftest_progress (only_row, document) VALUES (1, ?)", (document,))


def get_progress(tx: Transaction) -> SelfTestProgress | None:
    row = tx.execute("SELECT document FROM selftest_progress").fetchone()
    found: SelfTestProgress | None = None if row is None else adapter(SelfTestProgress).validate_json(row["document"])
    return found


def add_samples(tx: Transaction, run_id: int, found: Sequence[Sample]) -> None:
    tx.execute(
        """INSERT INTO selftest_samples (run_id, part, document)
             SELECT ?, coalesce(max(part) + 1, 0), ? FROM selftest_samples WHERE run_id = ?""",
        (run_id, adapter(tuple[Sample, ...]).dump_json(tuple(found)).decode(), run_id),
    )


def samples(tx: Transaction, run_id: int) -> tuple[Sample, ...]:
    query = "SELECT document FROM selftest_samples WHERE run_id = ? ORDER BY part"
    parts = [row["document"] for row in tx.execute(query, (run_id,)).fetchall()]
    return tuple(one for part in parts for one in adapter(tuple[Sample, ...]).validate_json(part))


def _run(document: str) -> SelfTestRun:
    found: SelfTestRun = adapter(SelfTestRun).validate_json(document)
    return found
