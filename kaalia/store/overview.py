"""The state database seen from outside: how much it holds, and what in it is nobody's business but a renter's."""

import json
from collections.abc import Iterator
from typing import Any

from kaalia.store.database import Transaction

_RENTERS = ("env", "args", "entrypoint", "onstart", "ssh_keys")
"""Of a contract's document: what a renter gave to be run."""


def counts(tx: Transaction) -> dict[str, Any]:
    """The schema's number, the size in bytes, and the rows of each table."""
    names = [
        row["name"]
        for row in tx.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        if not row["name"].startswith("sqlite_")
    ]
    # Names come from the database's own catalogue, and double quotes within them are doubled.
    tables = {name: _count(tx, name.replace('"', '""')) for name in names}
    return {"schema": tx.execute("PRAGMA user_version").fetchone()[0], "size_bytes": size_bytes(tx), "rows": tables}


def size_bytes(tx: Transaction) -> int:
    """Without the write-ahead log, which has some megabytes at most."""
    return int(tx.execute("PRAGMA page_count").fetchone()[0]) * int(tx.execute("PRAGMA page_size").fetchone()[0])


def renters_texts(tx: Transaction) -> Iterator[tuple[str, str]]:
    """(name, text) of all that renters gave to be run: variables, scripts, arguments, keys. Of any version's rows."""
    for row in tx.execute("SELECT document FROM contracts").fetchall():
        try:
            found = json.loads(row["document"])
            spec = found.get("spec", {})
            given = [(name, spec.get(name) or found.get(name)) for name in _RENTERS]
        except (ValueError, AttributeError):
            given = [("document", row["document"])]
        for name, value in given:
            yield from _texts(name, value)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Lines of text; of a pair the first says what the second is."""
    match value:
        case str():
            yield from ((name, line) for line in value.splitlines())
            yield name, value
        case [str() as key, str() as text] if name == "env":
            yield from _texts(key, text)
        case list():
            for one in value:
                yield from _texts(name, one)
        case dict():
            for key, one in value.items():
                yield from _texts(key, one)


def _count(tx: Transaction, name: str) -> int:
    return int(tx.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # noqa: S608 see above
