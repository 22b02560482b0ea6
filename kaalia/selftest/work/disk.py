"""The work program `disk`: writes a file of known noise, reads all of it back past the page cache, and compares.

Arguments: "folder", "bytes" of the file, "seconds" for each part, "rates", "quick"; else they are those of host.toml.
The file has no name from its first moment on (O_TMPFILE), so nothing of it stays, however this program ends. It takes
at most a tenth of what is free. With `rates` it measures too: bandwidth, random reads of 4 KiB, their latency.
"""

import contextlib
import errno
import mmap
import os
import random
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))

from kaalia.selftest.work import talk
from kaalia.selftest.work.host import settings

MIB = 1 << 20
BLOCK_BYTES = MIB
PAGE_BYTES = 4096
FREE_SHARE = 10
"""The file is at most this part of what is free."""
LEAST_BYTES = 16 * MIB
DEPTH = 32
"""Random reads under way at a time."""


class Disk:
    """The file. `seconds`: for each part; one that comes to its end earlier takes less."""

    def __init__(self, folder: str, size_bytes: int, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.size_bytes = _fitting(folder, size_bytes)
        self.handle, self.is_direct = _opened(folder)
        self._noise = random.Random(2).randbytes(BLOCK_BYTES)  # noqa: S311 no secret: the same noise each time

    def block(self, number: int) -> bytes:
        """What stands there: no two blocks are alike, so that one in another's place is seen."""
        return struct.pack("<Q", number) + self._noise[8:]

    def write(self) -> list[float]:
        """Until it is full, or the time is over; then `size_bytes` is what was written. MB/s of each round."""
        buffer = mmap.mmap(-1, BLOCK_BYTES)

        def one(number: int) -> None:
            buffer[:] = self.block(number)
            if os.pwrite(self.handle, buffer, number * BLOCK_BYTES) != BLOCK_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        rates, done = self._through(one, "written")
        os.fsync(self.handle)
        self.size_bytes = done * BLOCK_BYTES
        return rates

    def verify(self) -> list[float]:
        """All of it, however long it takes: MB/s of each round. Raises talk.FailedError for what is not as it was."""
        buffer = mmap.mmap(-1, BLOCK_BYTES)
        if not self.is_direct:
            os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_DONTNEED)

        def one(number: int) -> None:
            if os.preadv(self.handle, [buffer], number * BLOCK_BYTES) != BLOCK_BYTES or buffer[:] != self.block(number):
                where = f"MiB {number} of {self.size_bytes // MIB} on {self.folder}"
                words = f"cannot trust the disk: {where} is not what was written there"
                raise talk.FailedError("disk_wrong_data", words, remedy=_REMEDY)

        return self._through(one, "read back", is_bounded=False)[0]

    def random_reads(self) -> tuple[list[float], list[float]]:
        """Reads a second in each round with many under way, and seconds of each read with one."""
        waits: list[float] = []
        until = time.monotonic() + self.seconds
        buffer, dice = mmap.mmap(-1, PAGE_BYTES), random.Random(3)  # noqa: S311
        while time.monotonic() < until:
            begin = time.perf_counter()
            self._read_page(buffer, dice)
            waits.append(time.perf_counter() - begin)
        return self._many(time.monotonic() + self.seconds), waits

    def _read_page(self, buffer: mmap.mmap, dice: random.Random) -> None:
        os.preadv(self.handle, [buffer], dice.randrange(self.size_bytes // PAGE_BYTES) * PAGE_BYTES)

    def _many(self, until: float) -> list[float]:
        counts, failed = [0] * DEPTH, []

        def reads(number: int) -> None:
            buffer, dice = mmap.mmap(-1, PAGE_BYTES), random.Random(number)  # noqa: S311
            try:
                while time.monotonic() < until:
                    self._read_page(buffer, dice)
                    counts[number] += 1
            except OSError as error:
                failed.append(error)

        running = [threading.Thread(target=reads, args=(number,)) for number in range(DEPTH)]
        for thread in running:
            thread.start()
        rates, before, told_at = [], 0, time.perf_counter()
        while any(thread.is_alive() for thread in running):
            time.sleep(min(0.2, self.seconds / 4))
            now, total = time.perf_counter(), sum(counts)
            rates.append((total - before) / (now - told_at))
            before, told_at = total, now
        if failed:
            raise failed[0]
        return rates[:-1] or rates  # in the last round they ended

    def _through(self, one: Callable[[int], None], words: str, *, is_bounded: bool = True) -> tuple[list[float], int]:
        blocks, begin = self.size_bytes // BLOCK_BYTES, time.perf_counter()
        rates, told_at, told = [], begin, 0
        for number in range(blocks):
            one(number)
            now = time.perf_counter()
            if now - told_at >= 0.2 or number == blocks - 1:
                rates.append((number + 1 - told) * BLOCK_BYTES / max(now - told_at, 1e-6) / 1e6)
                told_at, told = now, number + 1
                talk.progress((number + 1) / blocks, f"{number + 1} of {blocks} MiB {words}")
            if is_bounded and now - begin >= self.seconds:
                return rates, number + 1
        return rates, blocks


def work(arguments: dict[str, Any]) -> str:
    wanted = settings("disk", arguments)
    folder = str(wanted["folder"])
    try:
        return _test(Disk(folder, int(wanted["bytes"]), float(wanted["seconds"])), has_rates=wanted["rates"])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise talk.FailedError("disk_full", f"cannot write to {folder}: {error}", remedy=_MAKE_ROOM) from None
        raise talk.FailedError("disk_io_error", f"cannot use {folder}: {error}", remedy=_REMEDY) from None


def _test(disk: Disk, *, has_rates: bool) -> str:
    written = disk.write()
    read = disk.verify()
    talk.figure("disk_verified_mb", disk.size_bytes // MIB, "MiB")
    words = f"{disk.size_bytes // MIB} MiB on {disk.folder} came back as they were written"
    if not disk.is_direct:
        return f"{words}; there is no way past the page cache, so that its speed is not known"
    if has_rates:
        _tell_rates(written, read, *disk.random_reads())
    return words


def _tell_rates(written: list[float], read: list[float], many: list[float], waits: list[float]) -> None:
    """Named as `kaalia report --measure disk` names them."""
    for name, rates, unit in (
        ("disk_write_mbps", written, "MB/s"),
        ("disk_read_mbps", read, "MB/s"),
        ("disk_random_read_iops", many, "1/s"),
        ("disk_read_latency_us", [one * 1e6 for one in waits], "µs"),
    ):
        mean = statistics.fmean(rates)
        talk.figure(name, round(mean, 1), unit, spread=round(statistics.pstdev(rates) / mean, 4) if mean else None)
    talk.figure("disk_read_latency_p99_us", round(sorted(waits)[int(len(waits) * 0.99)] * 1e6, 1), "µs")


def _fitting(folder: str, size_bytes: int) -> int:
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    size = min(size_bytes, free // FREE_SHARE) // BLOCK_BYTES * BLOCK_BYTES
    if size < LEAST_BYTES:
        words = f"cannot test {folder}: {free // MIB} MiB are free, and it needs {LEAST_BYTES * FREE_SHARE // MIB}"
        raise talk.FailedError("disk_full", words, remedy=_MAKE_ROOM)
    return size


def _opened(folder: str) -> tuple[int, bool]:
    """A file without a name; and whether it goes past the page cache."""
    for direct in (os.O_DIRECT, 0):
        for nameless in (os.O_TMPFILE, 0):
            with contextlib.suppress(OSError):
                return _open(folder, direct, nameless), bool(direct)
    return _open(folder, 0, 0), False


def _open(folder: str, direct: int, nameless: int) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | direct
    if nameless:
        return os.open(folder, flags | nameless, 0o600)
    path = os.path.join(folder, f".kaalia-selftest-{os.getpid()}")  # noqa: PTH118 pathlib costs the program its start
    handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)  # noqa: PTH108
    return handle


_MAKE_ROOM = "remove images and volumes that nobody uses (kaalia disk)"
_REMEDY = "see dmesg and smartctl -a for the drive, check its cables; replace it before tenants lose data"

if __name__ == "__main__":
    talk.run(work)
