"""Faults of Docker: it is killed, hangs, is slow, is set up otherwise, and cannot give GPUs. What it ran goes on."""

import shutil
import signal
from functools import partial

from tests.proofs.fault import Fault, World
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import HOOK

SOURCE = "Docker"
SLOW_S = 5.5
"""Over `engine_slow_s`; it is told when three looks in a row found it so."""
INIT = "docker-init"
"""`docker info` runs it to tell its version, and kaalia starts no container with it: it alone is slow."""


def engine(world: World) -> PrivateDocker:
    found = world.stack.engine
    assert isinstance(found, PrivateDocker)
    return found


def _kill(world: World) -> None:
    engine(world).kill()


def _start(world: World) -> None:
    engine(world).start()


def _send(number: signal.Signals, world: World) -> None:
    engine(world).send(number)


def _slow(world: World) -> None:
    real, folder = shutil.which(INIT), engine(world).extra_path
    assert real is not None
    assert folder is not None
    script = folder / f"{INIT}.part"
    script.write_text(f'#!/bin/sh\nsleep {SLOW_S}\nexec {real} "$@"\n')
    script.chmod(0o755)
    script.rename(folder / INIT)


def _fast(world: World) -> None:
    folder = engine(world).extra_path
    assert folder is not None
    (folder / INIT).unlink()


def _live_restore(is_on: bool, world: World) -> None:
    engine(world).configure(live_restore=is_on)


def _foreign_runtime(world: World) -> None:
    engine(world).configure(runtimes={"foreign": {"path": shutil.which("runc")}}, default_runtime="foreign")


def _own_runtime(world: World) -> None:
    engine(world).configure(default_runtime="runc")


def _move_hook(here: str, there: str, world: World) -> None:
    folder = engine(world).extra_path
    assert folder is not None
    (folder / here).rename(folder / there)


FAULTS: tuple[Fault, ...] = (
    Fault(SOURCE, "dockerd is killed", "engine_unavailable", _kill, _start),
    Fault(
        SOURCE,
        "dockerd hangs (SIGSTOP)",
        "engine_unavailable",
        partial(_send, signal.SIGSTOP),
        partial(_send, signal.SIGCONT),
    ),
    Fault(SOURCE, f"dockerd takes {SLOW_S:g} s to say how it is", "engine_slow", _slow, _fast, appears_s=30),
    Fault(
        SOURCE, "live-restore is off", "live_restore_off", partial(_live_restore, False), partial(_live_restore, True)
    ),
    Fault(SOURCE, "another default runtime", "default_runtime_foreign", _foreign_runtime, _own_runtime),
    Fault(
        SOURCE,
        "NVIDIA's hook is gone",
        "gpu_injection_missing",
        partial(_move_hook, HOOK, f"{HOOK}.away"),
        partial(_move_hook, f"{HOOK}.away", HOOK),
    ),
)
