"""The tables of relays, beside `db.tables`."""

from sqlalchemy import Boolean, Column, Float, ForeignKey, String, Table

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["metadata", "relay_blocks", "relay_keys", "relay_ports", "relays"]

relays = Table(
    "relays",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("host", String, nullable=False),
    Column("port", Whole, nullable=False),
    Column("first_port", Whole, nullable=False),
    Column("last_port", Whole, nullable=False),
    Column("token_sha256", String, nullable=False),
    Column("host_key", String, nullable=True),
    Column("takes_new_key", Boolean, nullable=False, default=False),
    Column("login", String, nullable=True),
    Column("seen_at", Float, nullable=True),
    sqlite_autoincrement=True,
)
"""`host_key` and `login` as the relay told them at its first visit, each null before it; `takes_new_key`:
the operator said that the old one is lost; `seen_at`: its latest one."""

relay_blocks = Table(
    "relay_blocks",
    metadata,
    Column("relay_id", ForeignKey("relays.id", ondelete="CASCADE"), primary_key=True),
    Column("first_port", Whole, primary_key=True),
    Column("machine_id", Whole, nullable=False, index=True),
)
"""Ports of a relay that are a machine's for good: a connection of its may keep the right to listen for as long."""

relay_ports = Table(
    "relay_ports",
    metadata,
    Column("relay_id", ForeignKey("relays.id", ondelete="CASCADE"), primary_key=True),
    Column("port", Whole, primary_key=True),
    Column("contract_id", Whole, nullable=False, index=True),
    Column("container_port", Whole, nullable=False),
)
"""What a contract is reached by. Rows of contracts that are over mean nothing, and go when the machine rents again."""

relay_keys = Table(
    "relay_keys",
    metadata,
    Column("machine_id", Whole, primary_key=True),
    Column("public_key", String, nullable=False),
)
"""With which a machine logs in at relays."""
