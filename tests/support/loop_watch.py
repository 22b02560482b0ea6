"""How long the event loop of a daemon under test is held by one callback: nothing in kaalia reads this.

`install(file)` in the daemon; `read(file)` beside it. A callback that was only interrupted by other programs of a
busy machine did not hold the loop by itself: the kernel says how long the thread waited for a processor, and so did a
child that it started, for which it waits until the child has become the other program.
"""

import asyncio.events
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LONG_S = 0.05
_LEAST_S = 0.02


@dataclass(frozen=True)
class Block:
    """`wall_s`: from begin to end; `cpu_s`: the thread computed; `queued_s`: it, or a child that it waits for, could,
    but other programs did. `age_s`: of the process.
    """

    wall_s: float
    cpu_s: float
    queued_s: float
    age_s: float
    what: str

    @property
    def own_s(self) -> float:
        """It computed, or waited for a file or a lock."""
        return self.wall_s - self.queued_s


def install(file: Path) -> None:
    """From now on each callback that takes 20 ms or longer is a line of the file."""
    run: Callable[..., None] = asyncio.events.Handle._run
    begin_child: Callable[..., None] = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    schedule: list[int] = []
    children_s = 0.0
    installed = time.perf_counter()

    def queued_s() -> float:
        """/proc/thread-self/schedstat: time on the processor, time in its queue, slices."""
        if not schedule:
            schedule.append(os.open("/proc/thread-self/schedstat", os.O_RDONLY))
        return int(os.pread(schedule[0], 100, 0).split()[1]) / 1e9 + children_s

    def watched_child(process: "subprocess.Popen[bytes]", *args: object) -> None:
        nonlocal children_s
        began, queued = time.perf_counter(), queued_s()
        begin_child(process, *args)
        waited_s = time.perf_counter() - began - (queued_s() - queued)  # less what it waited for its own processor
        with suppress(OSError, IndexError, ValueError):
            delay_s = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
            children_s += min(delay_s, waited_s)

    def watched(handle: asyncio.events.Handle) -> None:
        began, cpu, queued = time.perf_counter(), time.thread_time(), queued_s()
        run(handle)
        wall_s = time.perf_counter() - began
        if wall_s >= _LEAST_S:
            block = [round(wall_s, 4), round(time.thread_time() - cpu, 4), round(queued_s() - queued, 4)]
            block.append(round(time.perf_counter() - installed, 1))
            with file.open("a") as lines:
                lines.write(json.dumps([*block, repr(handle)[:300]]) + "\n")

    asyncio.events.Handle._run = watched  # type: ignore[method-assign,assignment]
    subprocess.Popen._execute_child = watched_child  # type: ignore[attr-defined]


def read(file: Path) -> list[Block]:
    return [Block(*json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
