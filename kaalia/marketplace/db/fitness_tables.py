"""What is rented out of a machine by model, and what keeps parts of it from that, beside `db.tables`."""

from sqlalchemy import Column, ForeignKey, String, Table, Text

from kaalia.marketplace.db.tables import metadata

__all__ = ["ask_models", "machine_faults", "metadata"]

ask_models = Table(
    "ask_models",
    metadata,
    Column("ask_id", ForeignKey("asks.id", ondelete="CASCADE"), primary_key=True),
    Column("model", String, nullable=False),
)
"""The model of a slice's GPUs (`contracts.slicing.model_of`), empty without GPUs. Slices of before have no row."""

machine_faults = Table(
    "machine_faults",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("faults", Text, nullable=False),
)
"""`faults`: list of Fault JSON (`contracts.fitness`), as the machine's daemon told it last."""
