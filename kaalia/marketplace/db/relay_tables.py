"""The tables of relays, beside `db.tables`."""

from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, String, Table

from kaalia.marketplace.db.tables import metadata

__all__ = ["metadata", "relay_blocks", "relay_keys", "relay_ports", "relays"]

relays = Table(
    "relays",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("host", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("first_port", Integer, nullable=False),
    Column("last_port", Integer, nullable=False),
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
    Column("first_port", Integer, primary_key=True),
    Column("machine_id", Integer, nullable=False, index=True),
)
"""Ports of a relay that are a machine's for good: a connection of its may keep the right to listen for as long."""

relay_ports = Table(
    "relay_ports",
    metadata,
    Column("relay_id", ForeignKey("relays.id", ondelete="CASCADE"), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("contract_id", Integer, nullable=False, index=True),
    Column("container_port", Integer, nullable=False),
)
"""What a contract is reached by. Rows of contracts that are over mean nothing, and go when the machine rents again."""

relay_keys = Table(
    "relay_keys",
    metadata,
    Column("machine_id", Integer, primary_key=True),
    Column("public_key", String, nullable=False),
)
"""With which a machine logs in at relays."""
