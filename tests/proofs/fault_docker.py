"""Faults of Docker: it is killed, and started again. What it ran goes on."""

from tests.proofs.fault import Fault, World
from tests.support.docker_engine import PrivateDocker


def _engine(world: World) -> PrivateDocker:
    engine = world.stack.engine
    assert isinstance(engine, PrivateDocker)
    return engine


def _kill(world: World) -> None:
    _engine(world).kill()


def _start(world: World) -> None:
    _engine(world).start()


FAULTS: tuple[Fault, ...] = (Fault("Docker", "dockerd is killed", "engine_unavailable", _kill, _start),)
