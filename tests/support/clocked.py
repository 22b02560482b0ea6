"""Daemon and marketplace with clocks that a test sets, by a program of the tests' own: nothing in kaalia reads this.

python -m tests.support.clocked CLOCK_FILE daemon --config FILE
python -m tests.support.clocked CLOCK_FILE marketplace serve --listen HOST:PORT --data DIR
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kaalia import log
from kaalia.clock import SystemClock
from kaalia.daemon import run as daemon
from kaalia.marketplace import run as marketplace
from tests.support import loop_watch

LOOP_WATCH = "KAALIA_TEST_LOOP_WATCH"
"""Names the file in which a daemon notes what holds its loop."""


@dataclass
class Setting:
    """How much a machine's clocks differ from the real ones."""

    wall_s: float = 0.0
    boot_s: float = 0.0
    boot_id: str = "boot-1"
    synchronised: bool = False
    monotonic_s: float = 0.0

    def write(self, file: Path) -> None:
        """At once or not at all: somebody may be reading."""
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self)))
        part.replace(file)


class FileClock:
    """The real clocks, moved by what the file says at each look."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._real = SystemClock()

    def now(self) -> datetime:
        return self._real.now() + timedelta(seconds=self._setting().wall_s)

    def monotonic_s(self) -> float:
        return self._real.monotonic_s() + self._setting().monotonic_s

    def boottime_s(self) -> float:
        return self._real.boottime_s() + self._setting().boot_s

    def boot_id(self) -> str:
        return self._setting().boot_id

    def is_synchronised(self) -> bool:
        return self._setting().synchronised

    def synchronisation(self) -> bool | None:
        return self.is_synchronised()

    def _setting(self) -> Setting:
        return Setting(**json.loads(self._file.read_text()))


class Clocks:
    """A world: its true time, which the marketplace has, and what one machine makes of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = {"daemon": folder / "daemon.clock", "marketplace": folder / "marketplace.clock"}
        self._world, self._machine = Setting(), Setting()
        self._boots = 1
        self._write()

    def now(self) -> datetime:
        """The true time."""
        return SystemClock().now() + timedelta(seconds=self._world.wall_s)

    def boottime_s(self) -> float:
        """How long the machine's boot has lasted, to the machine."""
        return SystemClock().boottime_s() + self._machine.boot_s

    def passes(self, seconds: float) -> None:
        """For the machine's timers it is as if it had been suspended."""
        self._pass(seconds)
        self._machine.wall_s += seconds
        self._machine.boot_s += seconds
        self._write()

    def jump(self, seconds: float) -> None:
        """The machine's wall clock alone."""
        self._machine.wall_s += seconds
        self._machine.synchronised = False
        self._write()

    def reboot(self, off_s: float, error_s: float = 0.0) -> None:
        """While no daemon runs: a new boot after `off_s`, with a hardware clock that is wrong by `error_s`."""
        self._boots += 1
        self._pass(off_s)
        self._machine = Setting(self._world.wall_s + error_s, 5.0 - SystemClock().boottime_s(), f"boot-{self._boots}")
        self._write()

    def lose_discipline(self) -> None:
        """NTP ends; the clock is as right as it was."""
        self._machine.synchronised = False
        self._write()

    def discipline(self) -> None:
        """NTP sets the machine's wall clock right."""
        self._machine.wall_s, self._machine.synchronised = self._world.wall_s, True
        self._write()

    def _pass(self, seconds: float) -> None:
        """The marketplace runs meanwhile."""
        self._world.wall_s += seconds
        self._world.monotonic_s += seconds

    def _write(self) -> None:
        self._machine.write(self.files["daemon"])
        self._world.write(self.files["marketplace"])


def main(argv: list[str]) -> int:
    clock, program, args = FileClock(Path(argv[0])), argv[1], argv[2:]
    if program == "daemon":
        if file := os.environ.get(LOOP_WATCH):
            loop_watch.install(Path(file))
        return daemon.main(args, clock)
    named = dict(zip(args[1::2], args[2::2], strict=True))
    log.setup("info", "text")
    serving = marketplace.serve(named["--listen"], Path(named["--data"]), on_ready=lambda _: None, clock=clock)
    asyncio.run(serving)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
