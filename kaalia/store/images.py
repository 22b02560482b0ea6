"""Images on this machine: which came by a registry login, and which kaalia pulled, so that it may remove them again.

A copy of a private image is nobody's right to it: its names are references and image ids. Losing such a row would give
a private image away, so it is written before the pull. Losing a row of a pulled image only keeps the image.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class PulledImage:
    """`used_at`: when it was pulled, or last seen with a container."""

    image_id: str
    reference: str
    used_at: datetime


def add_private(tx: Transaction, names: Iterable[str]) -> None:
    tx.executemany("INSERT OR IGNORE INTO private_images (name) VALUES (?)", [(name,) for name in names])


def delete_private(tx: Transaction, names: Iterable[str]) -> None:
    tx.executemany("DELETE FROM private_images WHERE name = ?", [(name,) for name in names])


def any_private(tx: Transaction, names: Iterable[str]) -> bool:
    query = "SELECT 1 FROM private_images WHERE name = ?"
    return any(tx.execute(query, (name,)).fetchone() for name in names)


def put_pulled(tx: Transaction, image: PulledImage) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO pulled_images (image_id, reference, used_at) VALUES (?, ?, ?)",
        (image.image_id, image.reference, image.used_at.timestamp()),
    )


def touch_pulled(tx: Transaction, image_ids: Iterable[str], now: datetime) -> None:
    """They are in use. Of images that kaalia did not pull there is no row to touch."""
    rows = [(now.timestamp(), image_id) for image_id in image_ids]
    tx.executemany("UPDATE pulled_images SET used_at = ? WHERE image_id = ?", rows)


def keep_pulled(tx: Transaction, image_ids: Collection[str], listed_at: datetime) -> None:
    """Forget all but these: what is gone and comes back may be somebody else's.

    `listed_at`: when their listing began; what was pulled since then need not be in it.
    """
    gone = {one.image_id for one in all_pulled(tx) if one.used_at < listed_at} - set(image_ids)
    tx.executemany("DELETE FROM pulled_images WHERE image_id = ?", [(image_id,) for image_id in gone])


def all_pulled(tx: Transaction) -> tuple[PulledImage, ...]:
    return tuple(
        PulledImage(row["image_id"], row["reference"], from_epoch(row["used_at"]))
        for row in tx.execute("SELECT * FROM pulled_images ORDER BY used_at, image_id").fetchall()
    )
