"""The tables of what this marketplace heard of machines, and when it was away itself, beside `db.tables`."""

from sqlalchemy import Column, Float, ForeignKey, Table, Text

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["availability", "away", "metadata"]

availability = Table(
    "availability",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("record", Text, nullable=False),
)
"""`record`: Record JSON, the silences of the last month. A machine without a row is one of before this table: its sums
`observed_s` and `online_s` in `machines` are no longer written."""

away = Table(
    "away",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("begin_at", Float, nullable=False),
    Column("end_at", Float, nullable=False),
)
"""When no process of this marketplace ran: no machine could be heard of."""
