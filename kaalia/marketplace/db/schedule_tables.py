"""The tables of scheduled requests, beside `db.tables`."""

from sqlalchemy import Column, Float, ForeignKey, Index, LargeBinary, String, Table, Text

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["metadata", "scheduled_job_keys", "scheduled_jobs"]

scheduled_jobs = Table(
    "scheduled_jobs",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("contract_id", ForeignKey("contracts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("request_method", String, nullable=False),
    Column("api_endpoint", String, nullable=False),
    Column("request_body", LargeBinary, nullable=False),
    Column("frequency", String, nullable=False),
    Column("day_of_the_week", Whole, nullable=True),
    Column("hour_of_the_day", Whole, nullable=True),
    Column("start_time", Float, nullable=False),
    Column("end_time", Float, nullable=False),
    Column("next_at", Float, nullable=True),
    Column("last_at", Float, nullable=True),
    Column("told", Text, nullable=False, default=""),
    sqlite_autoincrement=True,
)
"""Requests that renters have sent for them. `request_body`: JSON, sealed, since a snapshot's holds a login. `next_at`
null: over. `last_at`, `told`: the last run, and what came of it."""
Index("scheduled_jobs_due", scheduled_jobs.c.next_at)

scheduled_job_keys = Table(
    "scheduled_job_keys",
    metadata,
    Column("job_id", ForeignKey("scheduled_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", Whole, nullable=False),
)
"""The API key that scheduled each request, or changed it last. It may be gone; its number is not given again."""
