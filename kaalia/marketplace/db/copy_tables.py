"""The table of copies, beside `db.tables`."""

from sqlalchemy import Column, Float, Integer, String, Table, Text

from kaalia.marketplace.db.tables import metadata

__all__ = ["copy_notes", "metadata"]

copy_notes = Table(
    "copy_notes",
    metadata,
    Column("holder", String, primary_key=True),
    Column("machine_id", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("warning", Text, nullable=False, default=""),
    Column("said_at", Float, nullable=False),
)
"""What is told of the newest copy from or to an instance or volume (`C.7001`, `V.901`), for its renter."""
