"""The table of the marketplace's certificate authority, beside `db.tables`."""

from sqlalchemy import Column, LargeBinary, String, Table

from kaalia.marketplace.db.tables import metadata
from kaalia.marketplace.db.types import Whole

__all__ = ["authority", "metadata"]

authority = Table(
    "authority",
    metadata,
    Column("only_row", Whole, primary_key=True),
    Column("certificate", String, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
)
"""`certificate`: the root, PEM. Its key is sealed with the marketplace's signing key (`marketplace.sealing`)."""
