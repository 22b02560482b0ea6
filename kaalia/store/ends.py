"""When contracts end, in a small file beside the database, for the day on which the database is lost.

A container's label names the end that was agreed at its creation. An end that was moved since stands in the books only;
so it is written here too, before the transaction that accepts it ends. Nobody goes by the file while the books know the
contract. Two lines: a JSON document {contract id: end, null for none}, and the SHA-256 of that line.
"""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from kaalia.store import contracts
from kaalia.store.database import Transaction

Ends = Mapping[int, datetime | None]
"""Contract -> its end; None: it has none."""


def beside(database: Path) -> Path:
    return database.with_suffix(".ends")


def keep(tx: Transaction, now: datetime, have_moved: bool) -> None:
    """Write the ends of all contracts, if they have moved or the file is no longer what it was. Raises OSError.

    Contracts that the books do not know stay until their end: after a recovery the books begin empty.
    """
    path = _of(tx)
    old = _read(path)
    if old is not None and not have_moved:
        return
    known = {number: end for number, end in (old or {}).items() if end is not None and end > now}
    _write(
        path, known | {stored.contract.contract_id: stored.contract.end_at for stored in contracts.all_contracts(tx)}
    )


def recorded(database: Path) -> Ends:
    """What the file beside this database says; nothing when it is missing or damaged: then labels are all there is."""
    return _read(beside(database)) or {}


def recorded_here(tx: Transaction) -> Ends:
    """The same, of an open database."""
    return _read(_of(tx)) or {}


def at_the_latest(label: datetime | None, contract_id: int, ends: Ends) -> datetime | None:
    """The end of a contract that only a label and this record know: ends are moved back only, so the later one."""
    if label is None or contract_id not in ends:
        return label
    end = ends[contract_id]
    return None if end is None else max(label, end)


def _of(tx: Transaction) -> Path:
    return beside(Path(tx.execute("PRAGMA database_list").fetchone()["file"]))


def _read(path: Path) -> Ends | None:
    """None: there is no such file, or it is not what was written."""
    try:
        with path.open("rb") as file:
            line, digest, *more = file.read().split(b"\n")
        if more != [b""] or sha256(line).hexdigest().encode() != digest:
            return None
        return {int(number): datetime.fromisoformat(end) if end else None for number, end in json.loads(line).items()}
    except (OSError, ValueError):
        return None


def _write(path: Path, ends: Ends) -> None:
    """Whole or not at all, and on the disk when this returns."""
    line = json.dumps({number: end and end.isoformat() for number, end in sorted(ends.items())}).encode()
    new = path.with_suffix(".ends.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(line + b"\n" + sha256(line).hexdigest().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
