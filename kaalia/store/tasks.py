"""One-shot requests of the marketplace (logs and the like): taken before they are done, so at most once."""

from datetime import datetime

from kaalia.store.database import Transaction
from kaalia.wire.document import adapter
from kaalia.wire.protocol import TaskRequest, Verb

_TASK = adapter(TaskRequest)


def add_new(tx: Transaction, task: TaskRequest, now: datetime) -> None:
    """Remember a task; one that is known already stays as it is."""
    tx.execute(
        "INSERT OR IGNORE INTO tasks (task_id, document, state, received_at) VALUES (?, ?, 'new', ?)",
        (task.task_id, _TASK.dump_json(task).decode(), now.timestamp()),
    )


def take_new(tx: Transaction) -> tuple[TaskRequest, ...]:
    """All new tasks, marked taken: after a crash they are not done again."""
    rows = tx.execute("SELECT document FROM tasks WHERE state = 'new' ORDER BY received_at").fetchall()
    tx.execute("UPDATE tasks SET state = 'taken' WHERE state = 'new'")
    return tuple(_TASK.validate_json(row["document"]) for row in rows)


def cut_off(tx: Transaction, verb: Verb) -> tuple[TaskRequest, ...]:
    """Tasks of a verb that a daemon before this one has taken and not done."""
    rows = tx.execute(
        """SELECT document FROM tasks WHERE state = 'taken' AND json_extract(document, '$.verb') = ?
        ORDER BY received_at""",
        (str(verb),),
    ).fetchall()
    return tuple(_TASK.validate_json(row["document"]) for row in rows)


def finish(tx: Transaction, task_id: str) -> None:
    """Its result has been told, or nobody waits for it."""
    tx.execute("UPDATE tasks SET state = 'done' WHERE task_id = ?", (task_id,))


def forget_older(tx: Transaction, before: datetime) -> None:
    tx.execute("DELETE FROM tasks WHERE received_at < ?", (before.timestamp(),))
