"""The table of snapshots, beside `db.tables`."""

from sqlalchemy import Column, Float, LargeBinary, String, Table, Text

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["metadata", "snapshots"]

snapshots = Table(
    "snapshots",
    metadata,
    Column("contract_id", Whole, primary_key=True, autoincrement=False),
    Column("machine_id", Whole, nullable=False),
    Column("task_id", String, nullable=False, unique=True),
    Column("image", String, nullable=False),
    Column("login", LargeBinary, nullable=True),
    Column("told", Text, nullable=False),
    Column("deadline_at", Float, nullable=False),
    Column("finished_at", Float, nullable=True),
)
"""The newest snapshot of each contract, and how it is doing. `login`: sealed, until its machine has fetched it."""
