"""What the machine is known to be made of, and how that changed."""

from kaalia.contracts.hardware import Book
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

SOURCE = "hardware"
"""Of the conditions that tell changes."""
_BOOK = adapter(Book)


def put(tx: Transaction, book: Book) -> None:
    tx.execute("INSERT OR REPLACE INTO hardware (only_row, document) VALUES (1, ?)", (_BOOK.dump_json(book).decode(),))


def get(tx: Transaction) -> Book | None:
    """None: the machine was not looked at yet."""
    row = tx.execute("SELECT document FROM hardware").fetchone()
    return _BOOK.validate_json(row["document"]) if row else None
