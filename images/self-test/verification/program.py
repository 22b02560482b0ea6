"""Runs a work program as a child in a process group of its own, with a deadline, and reads what it says.

It writes JSON lines: {"progress": 0.4, "words": "..."}, {"figure": {...}}, {"sample": {...}}, and last {"end": "passed"
or "failed" or "skipped", "words": "...", "code": "..."}; its arguments are one JSON object.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
GRACE_S = 5.0
"""For a child that was killed: one that is stuck in a driver cannot die, and is left behind."""
TELL_EVERY_S = 5.0
"""The client asks every 20 s."""
_ENVIRONMENT = {"CUDA_CACHE_DISABLE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""As the machine's own test has it: nothing is left on disk, and the driver counts as the bus does."""
Say = Callable[[str], None]


@dataclass
class Heard:
    """What a program said. `end` None: nothing yet."""

    end: dict[str, Any] | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)
    told_at_s: float = 0.0


@dataclass(frozen=True)
class End:
    """`remedy`: of one that failed."""

    outcome: str
    words: str
    remedy: str = ""


def run(file: Path, arguments: dict[str, Any], deadline_s: float, say: Say) -> End:
    """Its end; FAILED for one that cannot be started, ends without a word, or does not end in time."""
    try:
        child = _start(file, arguments)
    except OSError as error:
        return End(FAILED, f"its program cannot be started: {error}")
    heard, complaints = Heard(), deque[str](maxlen=1)
    readers = [
        threading.Thread(target=_listen, args=(child.stdout, heard, file.stem, say), daemon=True),
        threading.Thread(target=_collect, args=(child.stderr, complaints), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        child.wait(deadline_s)
    except subprocess.TimeoutExpired:
        _kill(child)
        return End(FAILED, f"it has not ended after {deadline_s:.0f} s, and was ended")
    for reader in readers:
        reader.join(GRACE_S)
    _kill(child)  # what it may have started
    return _judge(child.returncode, heard, complaints)


def _start(file: Path, arguments: dict[str, Any]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(file), json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,
    )


def _judge(code: int, heard: Heard, complaints: Sequence[str]) -> End:
    if heard.end is None:
        last = complaints[-1] if complaints else "without a word"
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return End(FAILED, f"its program ended {how}: {last}")
    outcome = heard.end.get("end")
    words = str(heard.end.get("words") or "")
    if outcome not in (PASSED, FAILED, SKIPPED):
        return End(FAILED, f"its program ended in a way that nobody knows: {outcome!r}")
    told = "; ".join(part for part in (words, *_measured(heard.figures)) if part)
    return End(outcome, told, str(heard.end.get("remedy") or ""))


def _measured(figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Figures of the same name together: eight GPUs have 56 ways between them."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for one in figures:
        groups.setdefault((str(one.get("name")), str(one.get("unit") or "")), []).append(one.get("value"))
    for (name, unit), values in groups.items():
        numbers = sorted(value for value in values if isinstance(value, int | float))
        ends = dict.fromkeys(f"{number:.4g}" for number in (*numbers[:1], *numbers[-1:])) or {str(values[0]): None}
        times = f" ({len(values)} times)" if len(values) > 1 else ""
        yield f"{' '.join((name, ' to '.join(ends), unit)).rstrip()}{times}"


def _listen(stream: Any, heard: Heard, name: str, say: Say) -> None:
    for line in stream:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # a driver's own words
        if not isinstance(told, dict):
            continue
        if "end" in told:
            heard.end = told
        elif isinstance(told.get("figure"), dict):
            heard.figures.append(told["figure"])
        elif "progress" in told and time.monotonic() - heard.told_at_s >= TELL_EVERY_S:
            heard.told_at_s = time.monotonic()
            say(f"{name}: {float(told['progress'] or 0):.0%} {told.get('words') or ''}")


def _collect(stream: Any, into: deque[str]) -> None:
    """The last: a driver may say the same for hours."""
    into.extend(line.strip() for line in stream if line.strip())


def _kill(child: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
