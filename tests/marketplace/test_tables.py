"""What the tables promise to every database, and not only to SQLite, which has one size of integer."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from kaalia.marketplace.db import tables
from tests.marketplace.support import open_context


@pytest.mark.parametrize("table", ["contracts", "volumes"])
async def test_a_repetition_is_found_by_an_index(tmp_path: Path, table: str) -> None:
    """Each rental looks for an earlier one, among all that ever were."""
    async with open_context(tmp_path) as context, context.engine.begin() as tx:
        question = sa.text(f"EXPLAIN QUERY PLAN SELECT id FROM {table} WHERE idempotency_key = 'x'")
        plan = [str(row.detail) for row in await tx.execute(question)]

    assert len(plan) == 1
    assert f"ix_{table}_idempotency_key" in plan[0], plan


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=str)
def test_bytes_are_not_cut_to_two_gigabytes_nor_numbers_that_come_from_outside(table: sa.Table) -> None:
    made = str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]

    assert " INTEGER" not in made
    assert " SERIAL" not in made
