"""Which images came by a registry login: a copy of one on this machine is nobody's right to it.

Names are references and image ids. Losing a row would give a private image away, so it is written before the pull.
"""

from collections.abc import Iterable

from kaalia.store.database import Transaction


def add_private(tx: Transaction, names: Iterable[str]) -> None:
    tx.executemany("INSERT OR IGNORE INTO private_images (name) VALUES (?)", [(name,) for name in names])


def delete_private(tx: Transaction, names: Iterable[str]) -> None:
    tx.executemany("DELETE FROM private_images WHERE name = ?", [(name,) for name in names])


def any_private(tx: Transaction, names: Iterable[str]) -> bool:
    query = "SELECT 1 FROM private_images WHERE name = ?"
    return any(tx.execute(query, (name,)).fetchone() for name in names)
