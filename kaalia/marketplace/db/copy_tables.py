"""The table of copies, beside `db.tables`."""

from sqlalchemy import Column, Float, ForeignKey, LargeBinary, String, Table, Text

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["cloud_connections", "copy_notes", "metadata"]

copy_notes = Table(
    "copy_notes",
    metadata,
    Column("holder", String, primary_key=True),
    Column("machine_id", Whole, nullable=False),
    Column("text", Text, nullable=False),
    Column("warning", Text, nullable=False, default=""),
    Column("said_at", Float, nullable=False),
)
"""What is told of the newest copy from or to an instance or volume (`C.7001`, `V.901`), for its renter."""

cloud_connections = Table(
    "cloud_connections",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("cloud_type", String, nullable=False),
    Column("login", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
"""`login`: sealed by `marketplace.sealing`. Machines get it for a copy of its user's, and nobody else."""
