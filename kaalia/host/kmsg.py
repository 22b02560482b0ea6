"""The kernel's log, /dev/kmsg: what the kernel itself said since the boot, each record once, in order.

A record is read as the kernel prints it there (Documentation/ABI/testing/dev-kmsg):
`6,1234,5140900,-;NVRM: ...` is priority and facility, number, microseconds since the boot, flags; lines that
begin with a blank belong to the record above. Programs may write there too: what is not of the kernel's own facility
is left out.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaalia.host.kernel import unreadable

ROOT = Path("/")
BATCH_RECORDS = 500
"""Read in one go, about 2 ms: the loop stays free between two goes."""
_RECORD_BYTES = 16 * 1024
"""The kernel prints at most 8 KiB a record; a smaller buffer would be refused."""
_FACILITY_BITS = 3
_TEXT_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """`number` grows by one with each record of a boot; `at_s`: since the boot, by its monotonic clock."""

    number: int
    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """`is_last`: nothing more is there now. `was_cut`: records were overwritten before they were read."""

    records: tuple[KernelRecord, ...]
    is_last: bool
    was_cut: bool = False


class KernelLog:
    """Open from the oldest record that the kernel still has. Raises HostError `unreadable` where it cannot be read."""

    def __init__(self, root: Path = ROOT) -> None:
        path = root / "dev/kmsg"
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(f"the kernel's log {path}", str(error)) from error
        self._rest = b""

    def read(self) -> Batch:
        """What there is, at most BATCH_RECORDS reads. Raises HostError `unreadable`."""
        found: list[KernelRecord] = []
        was_cut = False
        for _ in range(BATCH_RECORDS):
            try:
                piece = os.read(self._file, _RECORD_BYTES)
            except BlockingIOError:
                return Batch(tuple(found), is_last=True, was_cut=was_cut)
            except BrokenPipeError:
                was_cut = True
                continue
            except OSError as error:
                raise unreadable("the kernel's log", str(error)) from error
            if not piece:
                return Batch(tuple(found), is_last=True, was_cut=was_cut)
            found += self._records(piece)
        return Batch(tuple(found), is_last=False, was_cut=was_cut)

    def wake(self, bell: asyncio.Event) -> None:
        """Set `bell` once, as soon as there is something to read."""

        def ring() -> None:
            loop.remove_reader(self._file)
            bell.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(self._file, ring)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)

    def _records(self, piece: bytes) -> Iterator[KernelRecord]:
        """A piece is one record; of a pipe in its place it may be several, the last one begun."""
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[-_RECORD_BYTES:]
        for line in lines:
            if (record := parse(line)) is not None:
                yield record


def parse(line: bytes) -> KernelRecord | None:
    """One line of a record. None: it is of a program, a further line, or no record."""
    head, separator, text = line.partition(b";")
    fields = head.split(b",")
    if not separator or len(fields) < 3 or not all(field.isdigit() and len(field) < 20 for field in fields[:3]):
        return None
    priority, number, at_us = (int(field) for field in fields[:3])
    if priority >> _FACILITY_BITS:
        return None
    shown = text[:_TEXT_CHARS_MAX].decode("ascii", "backslashreplace")
    return KernelRecord(number, at_us / 1_000_000, shown)
