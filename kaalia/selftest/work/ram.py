"""The work program `ram`: fills free memory with patterns that move, reads all of it back, and measures its speed.

Arguments: "quick", "seconds" at most, "share" of what is free, "leave_bytes" that stay free at least, "bytes_max",
"threads", "root" of the kernel's files; else they are those of host.toml. It never takes the machine to its end: it
asks the kernel before each block, gives back what others need meanwhile, and is the first that the kernel would end.

A bit that is wrong fails, and so does an error that ECC could not correct; corrected ones are counted.
"""

import ctypes
import mmap
import os
import random
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))

from kaalia.selftest.work import talk
from kaalia.selftest.work.host import settings

MIB = 1 << 20
CHUNK_MIB = 64
"""What is taken and given back at once."""
PATTERN_BYTES = MIB + 4096
FILL_SHARE = 0.5
"""Of the time: taking more than can be read back before the end would prove nothing of it."""
ROUNDS, ROUND_S, COPY_MIB = 5, 0.2, 32
THREADS_MAX = 32

_LIBC = ctypes.CDLL(None)
_LIBC.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_LIBC.memcpy.restype = ctypes.c_void_p
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""Called through ctypes they let the other threads go on."""


def work(arguments: dict[str, Any]) -> str:
    wanted = settings("ram", arguments)
    root = Path(wanted["root"])
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError as error:
        sys.stderr.write(f"cannot offer this process first when memory runs out: {error}\n")
    before = edac(root)
    room = Room(root, wanted)
    size_mib = room.size_mib()
    if size_mib < 1:
        raise talk.SkippedError(
            f"{room.free() // MIB} MiB are free, and {room.leave_bytes // MIB} MiB stay so for others"
        )
    threads = max(1, min(wanted["threads"] or len(os.sched_getaffinity(0)), THREADS_MAX, size_mib // 2))
    if size_mib >= 2 * COPY_MIB * threads:
        _tell_copy(threads)
    test = Test(room, size_mib, threads, enough_s(wanted, size_mib))
    test.run()
    return _verdict(test, before, edac(root))


def enough_s(wanted: dict[str, Any], size_mib: int) -> float:
    """How long it may take."""
    return float(min(wanted["seconds"], max(wanted["seconds_min"], wanted["seconds_per_gib"] * size_mib / 1024)))


# --- how much may be taken ---


class Room:
    """What the kernel has to give, of the machine and of the cgroups that this process is in."""

    def __init__(self, root: Path, wanted: dict[str, Any]) -> None:
        self._root = root
        self.total_bytes = self._meminfo("MemTotal")
        self.leave_bytes = int(max(wanted["leave_bytes"], wanted["leave_share"] * self.total_bytes))
        self._share = float(wanted["share"])
        self._bytes_max = int(wanted["bytes_max"] or self.total_bytes)

    def size_mib(self) -> int:
        free = self.free()
        return max(0, int(min(free * self._share, free - self.leave_bytes, self._bytes_max)) >> 20)

    def is_short(self) -> bool:
        """Others came and took more than half of what was left for them."""
        return self.free() < self.leave_bytes // 2

    def free(self) -> int:
        return min([self._meminfo("MemAvailable"), *self._of_cgroups()])

    def _meminfo(self, name: str) -> int:
        for line in (self._root / "proc/meminfo").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key == name:
                return int(rest.split()[0]) << 10
        return 0

    def _of_cgroups(self) -> Iterator[int]:
        """What each limit above this process leaves (cgroup v2)."""
        own = next((line[3:] for line in _lines(self._root / "proc/self/cgroup") if line.startswith("0::")), None)
        top = self._root / "sys/fs/cgroup"
        folder = top / own.lstrip("/") if own else None
        while folder is not None and folder != folder.parent and top in (folder, *folder.parents):
            most, used = _lines(folder / "memory.max"), _lines(folder / "memory.current")
            if most and used and most[0].isdecimal():
                yield max(0, int(most[0]) - int(used[0]))
            folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def edac(root: Path) -> tuple[int, int]:
    """Errors that the memory controllers corrected, and those that they could not, since boot."""
    found = []
    for name in ("ce_count", "ue_count"):
        texts = [line for path in root.glob(f"sys/devices/system/edac/mc/mc*/{name}") for line in _lines(path)]
        found.append(sum(int(text) for text in texts if text.isdecimal()))
    return found[0], found[1]


# --- the patterns ---


def _patterns() -> list[ctypes.Array[ctypes.c_char]]:
    noise = random.Random(1).randbytes(PATTERN_BYTES)  # noqa: S311 no secret: the same noise each time
    inverse = bytes(255 - byte for byte in noise)
    steady = [bytes([byte]) * PATTERN_BYTES for byte in (0x55, 0xAA, 0x00, 0xFF)]
    return [ctypes.create_string_buffer(text, PATTERN_BYTES) for text in (noise, inverse, *steady)]


class Pattern:
    """What a pass writes: each MiB begins with its own number, and the rest moves on by 8 bytes from MiB to MiB."""

    def __init__(self, number: int, patterns: list[ctypes.Array[ctypes.c_char]]) -> None:
        self._number = number
        self._text = patterns[number % len(patterns)]
        self._at = ctypes.addressof(self._text)

    def expected(self, mib: int) -> bytes:
        move = self._move(mib)
        return self._head(mib) + self._text.raw[move + 8 : move + MIB]

    def write(self, address: int, mib: int) -> None:
        _LIBC.memcpy(address, self._at + self._move(mib), MIB)
        ctypes.memmove(address, self._head(mib), 8)

    def is_there(self, address: int, mib: int) -> bool:
        if ctypes.string_at(address, 8) != self._head(mib):
            return False
        return not _LIBC.memcmp(address + 8, self._at + self._move(mib) + 8, MIB - 8)

    def _move(self, mib: int) -> int:
        return (mib + self._number) * 8 % (PATTERN_BYTES - MIB)

    def _head(self, mib: int) -> bytes:
        return struct.pack("<Q", self._number << 48 | mib)


class Chunk:
    """A piece of memory. `first_mib`: its number among all."""

    def __init__(self, first_mib: int, size_mib: int) -> None:
        self.first_mib, self.size_mib = first_mib, size_mib
        self.filled = -1
        """The pass that filled it last."""
        self._map = mmap.mmap(-1, size_mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        handle = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(handle)
        del handle  # while it lives the memory cannot be given back

    def close(self) -> None:
        self._map.close()


# --- the test ---


class Test:
    """Threads that each have their part, through passes of filling and reading back."""

    def __init__(self, room: Room, size_mib: int, threads: int, seconds: float) -> None:
        self._room = room
        self._size_mib = size_mib
        self._patterns = _patterns()
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._fill_until = self._begin + FILL_SHARE * seconds
        self._until = self._begin + seconds
        self._next_mib = 0
        self._told_at = 0.0
        self.threads = threads
        self.wrong: list[str] = []
        self.read_mib = 0
        self.tested_mib = 0
        self.passes = 0
        self.gave_back_mib = 0
        self._parts: list[list[Chunk]] = [[] for _ in range(threads)]

    def run(self) -> None:
        """Until the time is over, all passes are done, or something is wrong."""
        self._all(self._take)
        self.tested_mib = sum(chunk.size_mib for part in self._parts for chunk in part)
        while True:
            number = self.passes
            self._all(partial(self._verify, number))
            self.passes += 1
            if self.wrong or self.passes >= len(self._patterns) or time.monotonic() >= self._until:
                break
            self._all(partial(self._fill, number + 1))

    def share(self) -> float:
        return min(1.0, (time.monotonic() - self._begin) / max(0.001, self._until - self._begin))

    def _all(self, work: Callable[[list[Chunk]], None]) -> None:
        running = [threading.Thread(target=work, args=(part,)) for part in self._parts]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            self._progress()
            for thread in running:
                thread.join(0.5 / len(running))

    def _take(self, part: list[Chunk]) -> None:
        pattern = Pattern(0, self._patterns)
        while time.monotonic() < self._fill_until and not self._room.is_short():
            with self._lock:
                first = self._next_mib
                size = min(CHUNK_MIB, self._size_mib - first)
                self._next_mib += max(0, size)
            if size < 1:
                return
            try:
                chunk = Chunk(first, size)
            except OSError:  # a limit that no file tells
                return
            part.append(chunk)
            self._write(chunk, pattern, 0)

    def _fill(self, number: int, part: list[Chunk]) -> None:
        pattern = Pattern(number, self._patterns)
        for chunk in self._still_ours(part):
            if time.monotonic() >= self._until:
                return
            self._write(chunk, pattern, number)

    def _write(self, chunk: Chunk, pattern: Pattern, number: int) -> None:
        for index in range(chunk.size_mib):
            pattern.write(chunk.address + index * MIB, chunk.first_mib + index)
        chunk.filled = number

    def _verify(self, number: int, part: list[Chunk]) -> None:
        """What this pass filled; the first pass is read back to its end, however late it is."""
        pattern = Pattern(number, self._patterns)
        for chunk in self._still_ours(part):
            if self.wrong or (number and time.monotonic() >= self._until):
                return
            if chunk.filled != number:
                continue
            for index in range(chunk.size_mib):
                address, mib = chunk.address + index * MIB, chunk.first_mib + index
                if not pattern.is_there(address, mib):
                    self.wrong.append(_difference(address, mib, pattern))
                    return
            with self._lock:
                self.read_mib += chunk.size_mib

    def _still_ours(self, part: list[Chunk]) -> Iterator[Chunk]:
        """All of it, but what others need meanwhile is given back."""
        for chunk in list(part):
            if self._room.is_short():
                part.remove(chunk)
                chunk.close()
                with self._lock:
                    self.gave_back_mib += chunk.size_mib
            else:
                yield chunk

    def _progress(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= 1.0:
            self._told_at = now
            talk.progress(self.share(), f"{self._next_mib} MiB, pass {self.passes + 1}")


def _difference(address: int, mib: int, pattern: Pattern) -> str:
    """Where, which bits, and whether a second look sees the same: then a cell is bad, else the way to it."""
    known = pattern.expected(mib)
    looks = [ctypes.string_at(address, MIB) for _ in range(2)]
    for look in looks:
        for at in range(0, MIB, 4096):
            if look[at : at + 4096] != known[at : at + 4096]:
                byte = next(one for one in range(at, at + 4096) if look[one] != known[one])
                again = "the same at a second look" if looks[0] == looks[1] else "something else at a second look"
                where = f"{mib} MiB and {byte} bytes into what was tested"
                return f"0x{look[byte]:02x} was read where 0x{known[byte]:02x} was written ({where}; {again})"
    return (
        f"{mib} MiB into what was tested something else was read than was written, and at a second look the right thing"
    )


# --- how fast it is ---


def _tell_copy(threads: int) -> None:
    """Bytes that all threads together read and write."""
    rates: list[float] = []
    barrier = threading.Barrier(threads)
    done = [0.0] * threads

    def copy(number: int) -> None:
        source, target = Chunk(0, COPY_MIB), Chunk(0, COPY_MIB)
        _LIBC.memcpy(source.address, target.address, COPY_MIB * MIB)
        for _ in range(ROUNDS):
            barrier.wait()
            begin = now = time.perf_counter()
            blocks = 0
            while now - begin < ROUND_S:
                _LIBC.memcpy(target.address, source.address, COPY_MIB * MIB)
                blocks, now = blocks + 1, time.perf_counter()
            done[number] = 2 * blocks * COPY_MIB * MIB / (now - begin) / 1e9
            if barrier.wait() == 0:
                rates.append(sum(done))
            barrier.wait()
        source.close()
        target.close()

    running = [threading.Thread(target=copy, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    mean = statistics.fmean(rates)
    talk.figure("ram_copy_gbps", round(mean, 2), "GB/s", spread=round(statistics.pstdev(rates) / mean, 4))


# --- what is said of it ---


def _verdict(test: Test, before: tuple[int, int], after: tuple[int, int]) -> str:
    corrected, uncorrected = max(0, after[0] - before[0]), max(0, after[1] - before[1])
    talk.figure("ram_tested_mb", test.tested_mib, "MiB")
    talk.figure("ram_passes", test.passes, "")
    talk.figure("ram_corrected_errors", corrected, "")
    if test.wrong:
        raise talk.FailedError("ram_wrong_bits", f"cannot trust the memory: {test.wrong[0]}", remedy=_REMEDY)
    if uncorrected:
        raise talk.FailedError(
            "ram_ecc_uncorrected",
            f"cannot trust the memory: {uncorrected} errors could not be corrected (EDAC) while it was tested",
            remedy=_REMEDY,
        )
    words = f"{test.tested_mib} MiB held what was written, {test.passes} passes, {test.threads} threads"
    words += f"; {test.gave_back_mib} MiB were given back in between: others needed them" * bool(test.gave_back_mib)
    return words + f"; ECC corrected {corrected} errors" * bool(corrected)


_REMEDY = (
    "put the memory back to its stock speed (no XMP or EXPO), reseat the modules, find the bad one with memtest86+ or "
    "by its EDAC counters (edac-util -v), and replace it"
)

if __name__ == "__main__":
    talk.run(work)
