"""The work program `cpu`: all cores compute at once, each answer is compared with the known one, the pace is watched.

Arguments: "quick", "seconds", "root" of the kernel's files, and the bounds of host.toml. A process for each core that
it may use, bound to it. A core that computes wrongly, whose process dies, or that cannot hold its pace or clock (heat,
a power limit) fails.

A pace is rounds in a second of the core's own time, so that others who use the core do not make it slow.
"""

import contextlib
import hashlib
import json
import math
import os
import select
import signal
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))

from kaalia.selftest.work import talk
from kaalia.selftest.work.host import settings

WINDOWS = 20
"""In each a core tells how far it is."""
GRACE_S = 30.0
"""After the time: for the least rounds, on cores that others use too."""
BLOCK_BYTES = 256 << 10
PRIME = (1 << 2203) - 1
"""A Mersenne prime, so that the power below goes through all of the multiplier."""
FEW = 6
"""Windows of a core that tell of its pace."""


class Core:
    """What one of them told. `ghz`: while all worked."""

    def __init__(self, number: int, pid: int, pipe: int) -> None:
        self.number, self.pid, self.pipe = number, pid, pipe
        self.rates: list[float] = []
        self.rounds = 0
        self.wrong = ""
        self.ended = self.died = False
        self.ghz: list[float] = []
        self._text = b""

    def read(self) -> bool:
        """False: it has ended."""
        data = os.read(self.pipe, 65536)
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self.rounds += told.get("rounds", 0)
            self.wrong = self.wrong or told.get("wrong", "")
            self.ended = self.ended or "end" in told
            if told.get("cpu_s"):
                self.rates.append(told["rounds"] / told["cpu_s"])
        return bool(data)

    def held_share(self) -> float | None:
        """Its pace in the last third of the time, as a share of that in the first. None: it hardly ran."""
        if len(self.rates) < FEW:
            return None
        third = len(self.rates) // 3
        return statistics.median(self.rates[-third:]) / statistics.median(self.rates[:third])


def work(arguments: dict[str, Any]) -> str:
    wanted = settings("cpu", arguments)
    root, numbers = str(wanted["root"]), sorted(os.sched_getaffinity(0))
    wanted["seconds"] = seconds = enough_s(wanted, root, numbers)
    throttled_before = {number: throttled_s(root, number) for number in numbers}
    cores = [_start(number, wanted) for number in numbers]
    try:
        _follow(cores, seconds, root)
    finally:
        for core in cores:
            with contextlib.suppress(ProcessLookupError):
                os.kill(core.pid, signal.SIGKILL)
    throttled = {number: _grown(throttled_before[number], throttled_s(root, number)) for number in numbers}
    _tell_figures(cores, root, throttled, seconds)
    return _verdict(cores, root, throttled, wanted)


def enough_s(wanted: dict[str, Any], root: str, numbers: list[int]) -> float:
    """How long it takes: less where the kernel tells neither of heat nor of the clock that should be held."""
    tells = any(throttled_s(root, one) is not None or clock_max_ghz(root, one) for one in numbers)
    return float(wanted["seconds"] if tells else min(wanted["seconds"], wanted["blind_seconds"]))


# --- what a core does ---


def _start(number: int, wanted: dict[str, Any]) -> Core:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Core(number, pid, ours)
    try:
        os.close(ours)
        os.sched_setaffinity(0, {number})
        if wanted["steps_aside"]:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _work(theirs, float(wanted["seconds"]), int(wanted["rounds_min"]))
    finally:
        os._exit(0)


def _work(pipe: int, seconds: float, rounds_min: int) -> None:
    parent, window_s = os.getppid(), seconds / WINDOWS
    begin = told_at = time.monotonic()
    all_rounds, rounds, cpu_s = 0, 0, time.thread_time()
    while os.getppid() == parent:
        wrong = check_round()
        rounds += 1
        all_rounds += 1
        now = time.monotonic()
        if wrong or now - told_at >= window_s:
            used = time.thread_time() - cpu_s
            _write(pipe, {"rounds": rounds, "cpu_s": used, "wrong": wrong})
            told_at, rounds, cpu_s = now, 0, time.thread_time()
        if wrong or (now - begin >= seconds and all_rounds >= rounds_min):
            break
    _write(pipe, {"end": True})


def _write(pipe: int, line: dict[str, object]) -> None:
    os.write(pipe, json.dumps(line).encode() + b"\n")


def hashed() -> str:
    """Integers and shifts, or the core's own instructions for it."""
    digest = b""
    for _ in range(32):
        digest = hashlib.sha256(digest + _NOISE).digest()
    return digest.hex()


def multiplied() -> str:
    """Long integers: the multiplier."""
    return hashlib.sha256(str(pow(3, PRIME >> 1000, PRIME)).encode()).hexdigest()


def computed() -> str:
    """Fractions: only what IEEE 754 rounds the same everywhere."""
    x, total = 0.7, 0.0
    values = []
    for step in range(1, 20000):
        x = 3.9 * x * (1.0 - x)
        total += math.sqrt(x) / step
        values.append(total)
    return hashlib.sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()


def packed() -> str:
    """Caches and branches: there and back; how small it becomes is the library's own affair."""
    return hashlib.sha256(zlib.decompress(zlib.compress(_TEXT, 6))).hexdigest()


KNOWN: dict[str, tuple[Callable[[], str], str]] = {
    "hash": (hashed, "4e8dda677d3489039e2bb804e6421563c91c47e5bea7252639e88071c93a80f6"),
    "integers": (multiplied, "bfacfa35a07f9c923f0e0cc6af2ef2a30f3357085efdaddc2870088f406db61a"),
    "fractions": (computed, "130d7a7863cabd7675efab652122a33141e14c3245fa262290dae7e040193feb"),
    "packing": (packed, "7d9da7cce19a1a079fed9251aa0a2c5ca4ed8c37480352329dcd25084407304a"),
}
"""Each work, and its answer on a core that computes rightly."""


def check_round() -> str:
    """The work that went wrong, with what came of it; empty: all is right."""
    for name, (answer, known) in KNOWN.items():
        try:
            found = answer()
        except (ArithmeticError, ValueError, MemoryError, zlib.error) as error:
            return f"{name} ({error!r})"
        if found != known:
            return f"{name} ({found[:8]} instead of {known[:8]})"
    return ""


def _noise() -> bytes:
    """The same on each machine, and nothing that compresses."""
    return b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(BLOCK_BYTES // 32))


def _text() -> bytes:
    """The same on each machine, and compresses about as text does."""
    words = (f"{number * number} the same words again {number}\n" for number in range(1 << 14))
    return "".join(words).encode()[:BLOCK_BYTES]


_NOISE, _TEXT = _noise(), _text()


# --- who watches them ---


def _follow(cores: list[Core], seconds: float, root: str) -> None:
    begin, looked_at = time.monotonic(), 0.0
    open_pipes = {core.pipe: core for core in cores}
    while open_pipes and (now := time.monotonic()) < begin + seconds + GRACE_S:
        for pipe in select.select(list(open_pipes), [], [], 0.5)[0]:
            if not open_pipes[pipe].read():
                core = open_pipes.pop(pipe)
                core.died = not core.ended
        if now - looked_at >= 1.0 and now < begin + seconds:
            looked_at = now
            for core, ghz in zip(cores, clocks_ghz(root, [core.number for core in cores]), strict=True):
                core.ghz += [ghz] if ghz else []
            talk.progress((now - begin) / seconds, f"{len(cores)} cores compute")


def clocks_ghz(root: str, numbers: list[int]) -> list[float | None]:
    """Of each core at this moment; None where the kernel does not tell."""
    found: list[float | None] = [_khz(root, number, "scaling_cur_freq") for number in numbers]
    if any(found):
        return found
    lines = (_text_of(f"{root}/proc/cpuinfo") or "").splitlines()
    mhz = [float(line.partition(":")[2]) / 1000 for line in lines if line.startswith("cpu MHz")]
    return [mhz[number] if number < len(mhz) else None for number in numbers]


def clock_max_ghz(root: str, number: int) -> float | None:
    """What the kernel says that a core can do for ever, or else at its best."""
    return _khz(root, number, "base_frequency") or _khz(root, number, "cpuinfo_max_freq")


def _khz(root: str, number: int, name: str) -> float | None:
    text = _text_of(f"{root}/sys/devices/system/cpu/cpu{number}/cpufreq/{name}")
    return int(text) / 1e6 if text and text.strip().isdecimal() else None


def throttled_s(root: str, number: int) -> float | None:
    """For how long heat slowed the core or its package since boot; None: the kernel does not tell."""
    folder = f"{root}/sys/devices/system/cpu/cpu{number}/thermal_throttle"
    texts = [_text_of(f"{folder}/{part}_throttle_total_time_ms") for part in ("core", "package")]
    found = [int(text) / 1000 for text in texts if text and text.strip().isdecimal()]
    return max(found) if found else None


def _text_of(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 pathlib costs the program its start
            return file.read()
    except OSError:
        return None


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


# --- what is said of it ---


def _tell_figures(cores: list[Core], root: str, throttled: dict[int, float | None], seconds: float) -> None:
    talk.figure("cpu_cores_tested", sum(core.rounds > 0 for core in cores), "")
    rates = [rate for core in cores for rate in core.rates]
    if rates:
        paces = [statistics.median(core.rates) for core in cores if core.rates]
        spread = statistics.pstdev(paces) / statistics.fmean(paces)
        talk.figure("cpu_pace", round(sum(paces), 2), "rounds/s", spread=round(spread, 4))
    for name, unit, values in (
        ("cpu_held_share", "", [share for core in cores if (share := core.held_share()) is not None]),
        ("cpu_clock_ghz", "GHz", [statistics.median(core.ghz) for core in cores if core.ghz]),
        ("cpu_clock_share", "", list(_clock_shares(cores, root))),
    ):
        if values:
            talk.figure(name, round(min(values), 3), unit)
    known = [grown for grown in throttled.values() if grown is not None]
    if known:
        talk.figure("cpu_throttled_share", round(max(known) / seconds, 3), "")


def _clock_shares(cores: list[Core], root: str) -> Iterator[float]:
    for core in cores:
        most = clock_max_ghz(root, core.number)
        if core.ghz and most:
            yield statistics.median(core.ghz) / most


def _verdict(cores: list[Core], root: str, throttled: dict[int, float | None], wanted: dict[str, Any]) -> str:
    for core in cores:
        if core.wrong:
            raise talk.FailedError(
                "cpu_computes_wrong",
                f"cannot trust the processor: core {core.number} computed wrongly: {core.wrong}",
                remedy=_WRONG,
            )
        if core.died:
            raise talk.FailedError(
                "cpu_core_died",
                f"cannot trust the processor: the process on core {core.number} died: {_death(core.pid)}",
                remedy=_WRONG,
            )
    for how in _slow(cores, root, throttled, wanted):
        raise talk.FailedError("cpu_throttled", f"cannot hold the processor's pace: {how}", remedy=_SLOW)
    tested = sum(core.rounds > 0 for core in cores)
    if not tested:
        raise talk.SkippedError("no core had time for this: others use them")
    words = f"{tested} cores computed {sum(core.rounds for core in cores)} rounds, every answer right"
    left = len(cores) - tested
    return words + (f"; {left} had no time for it: others use them" if left else "")


def _death(pid: int) -> str:
    with contextlib.suppress(ChildProcessError):
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
    return "it ended in the middle"


def _slow(cores: list[Core], root: str, throttled: dict[int, float | None], wanted: dict[str, Any]) -> Iterator[str]:
    seconds, held_min, clock_min = wanted["seconds"], wanted["held_share_min"], wanted["clock_share_min"]
    for core in cores:
        grown, share = throttled[core.number], core.held_share()
        most = clock_max_ghz(root, core.number)
        if grown is not None and grown / seconds > wanted["throttled_share_max"]:
            yield f"heat slowed core {core.number} for {grown:.1f} of {seconds:g} s"
        if core.ghz and most and statistics.median(core.ghz) / most < clock_min:
            clock = statistics.median(core.ghz)
            yield f"core {core.number} holds {clock:.2f} GHz of {most:.2f} under load, not {clock_min:.0%}"
        if share is not None and share < held_min:
            yield f"core {core.number} holds {share:.0%} of the pace that it began with, not {held_min:.0%}"


_WRONG = (
    "put the processor back to its stock clocks and voltages (BIOS: no overclock, undervolt or curve optimiser), test "
    "the memory with memtest86+; a core that still computes wrongly means a new processor"
)
_SLOW = "see cooler, thermal paste, fans and dust, and the power limits in the BIOS; watch it with turbostat or sensors"


if __name__ == "__main__":
    talk.run(work)
