"""What keeps a machine verified or not, its self-tests, and what they measured, beside `db.tables`."""

from sqlalchemy import Column, Float, ForeignKey, Index, String, Table, Text, UniqueConstraint

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["benchmarks", "gpu_holders", "metadata", "selftests", "sightings", "verifications"]

verifications = Table(
    "verifications",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("record", Text, nullable=False),
)
"""`record`: Verification JSON (`model.verification`). The state alone stands in `machines.verification` too. A machine
without a row was never heard of since there are verifications."""

selftests = Table(
    "selftests",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", Whole, nullable=False),
    Column("began_at", Float, nullable=False),
    Column("taken_at", Float, nullable=False),
    Column("document", Text, nullable=False),
    UniqueConstraint("machine_id", "run_id", "began_at"),
    sqlite_autoincrement=True,
)
"""`document`: SelfTestNotice JSON (`wire.selftest`), as the machine signed and sent it; the newest few of a machine."""

sightings = Table(
    "sightings",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("record", Text, nullable=False),
)
"""`record`: Sightings JSON (`model.sightings`), of machines whose ports this marketplace's own prober tried."""

gpu_holders = Table(
    "gpu_holders",
    metadata,
    Column("uuid", String, primary_key=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
)
"""The machine that each GPU counts for: the first that named it, until it has it no more."""

benchmarks = Table(
    "benchmarks",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False),
    Column("type", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("gpu_name", String, nullable=True),
    Column("num_gpus", Whole, nullable=False),
    Column("dph_base", Float, nullable=True),
    Column("image", String, nullable=True),
    Column("last_update", Float, nullable=False),
    UniqueConstraint("machine_id", "type"),
    sqlite_autoincrement=True,
)
"""What the newest self-test of a machine measured, one row a figure; `dph_base`: $/h of the whole machine then."""
Index("benchmarks_by_value", benchmarks.c.type, benchmarks.c.value)
