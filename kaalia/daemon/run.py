"""The daemon's process: `python -m kaalia.daemon --config FILE`. Arguments, lock, signals, start and stop.

Stopping means detaching: tenants run on, and what was under way is found again from intents and labels.
Exit status: 0 stopped as asked, 1 failed (worth a restart), 2 cannot run like this (a restart would not help).
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from kaalia import __version__
from kaalia import log as logs
from kaalia.clock import MachineClock, SystemClock
from kaalia.config import Config, load
from kaalia.daemon import build
from kaalia.daemon.notify import Systemd
from kaalia.errors import ConfigError, KaaliaError, StoreError
from kaalia.host import heap
from kaalia.service import run_services
from kaalia.store import folder

log = logging.getLogger("kaalia.daemon")

_GC_THRESHOLDS = (700, 10, 10)
"""Python's own; `__main__` raises the first one for the imports."""
DETACH_DEADLINE_S = 2.0
"""After a stop signal: a thread that hangs in Docker or on a disk must not keep the process from going."""


def main(argv: list[str] | None = None, clock: MachineClock | None = None) -> int:
    """`clock`: for tests that start the daemon by a program of their own; nothing outside the process can give one."""
    args = _arguments(argv)
    _settle_memory()
    try:
        config = load(args.config, os.environ)
        if args.check:
            sys.stdout.write("the configuration is valid\n")
            return 0
        logs.setup(config.log.level, config.log.format)
        folder.prepare(config.state_dir, config.identity_path, config.database_path)
        with folder.locked(config.lock_path):
            asyncio.run(serve(config, clock or SystemClock(), Systemd(os.environ)))
    except KaaliaError as error:
        sys.stderr.write(f"kaalia: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _settle_memory() -> None:
    """All that was imported stays: it need not be looked at again, and what the imports left behind goes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    heap.trim()


async def serve(config: Config, clock: MachineClock, systemd: Systemd) -> None:
    """Run until a signal. A state that cannot be used means safe mode until it can be."""
    stop = asyncio.Event()
    _obey_signals(stop, systemd)
    log.info("kaalia %s starts, state in %s", __version__, config.state_dir)
    while not stop.is_set():
        try:
            async with build.daemon(config, clock, systemd) as services:
                await run_services(services, stop)
        except StoreError as error:
            log.error("safe mode, tenants run on and nothing is admitted: %s", error)
            async with build.safe_mode(config, clock, systemd, error.problem) as services:
                await run_services(services, stop)
    log.info("detached; workloads run on")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kaalia daemon", description="Run the host daemon in the foreground.")
    parser.add_argument("--config", type=Path, help="configuration file (default: /etc/kaalia/kaalia.yaml)")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    return parser.parse_args(argv)


def _obey_signals(stop: asyncio.Event, systemd: Systemd) -> None:
    def detach(number: signal.Signals) -> None:
        log.info("%s: detaching", number.name)
        systemd.send("STOPPING=1")
        # State is durable and every step repeatable, so leaving without ceremony is as safe as a crash.
        last_resort = threading.Timer(DETACH_DEADLINE_S, os._exit, (0,))
        last_resort.daemon = True
        last_resort.start()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, detach, number)
    loop.add_signal_handler(
        signal.SIGHUP, log.info, "SIGHUP ignored: the configuration is read at start, restart to apply a change"
    )


if __name__ == "__main__":
    sys.exit(main())
