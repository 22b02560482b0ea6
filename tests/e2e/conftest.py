"""Stacks for the end-to-end tests, one a module, on the private engine with simulated GPUs; a registry beside it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.e2e.flows import World
from tests.e2e.rented import running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.registry import Registry
from tests.support.ssh import new_key
from tests.support.stack import Stack


@pytest.fixture(scope="module")
def world(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_stack(docker_host, tmp_path_factory.mktemp("stack")) as stack:
        yield World(stack, DEMO_IMAGE)


@pytest.fixture(scope="module")
def stack(world: World) -> Stack:
    """The same with the machine listed."""
    world.stack.list_machine()
    return world.stack


@pytest.fixture(scope="module")
def key(stack: Stack) -> Path:
    """The renter's own, known to the marketplace before anything is rented."""
    path, public = new_key(stack.folder)
    stack.renter.run("create", "ssh-key", public)
    return path


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry that answers from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    registry = Registry(password="swordfish-d41d8cd9")
    asyncio.run_coroutine_threadsafe(registry.start(), loop).result(10)
    yield registry
    asyncio.run_coroutine_threadsafe(registry.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
