"""What holds for every test: shared fixtures, and an event loop that may not block."""

import inspect
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

pytest_plugins = ["tests.support.fixtures", "tests.support.fixtures_docker"]

ALLOWED = {
    # Joins the writer thread, which has nothing left to do: microseconds, once in the life of a database.
    "kaalia/store/database.py": {"close"},
    # Makes its socket at the start and removes it at the end; requests are answered in tasks of their own.
    "kaalia/api/app.py": {"run"},
    # The command line's client: it blocks by design, and only in a test does a loop run beside it.
    "kaalia/client.py": {"_exchange"},
    # Says that a semaphore is gone, whenever the garbage collector comes by.
    "multiprocessing/resource_tracker.py": {"_check_alive", "_send"},
    # SQLAlchemy makes the path of the database absolute, once, before anyone is served.
    "kaalia/marketplace/db/engine.py": {"open_engine"},
}
"""Blocking that cannot be avoided and harms nobody: the functions below which it may happen, by file."""


E2E = Path(__file__).parent / "e2e"


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C, and every program that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run or must not be made to run; first come the tests that wait.

    Those are the ones end to end: what only computes fills the gaps of several workers at the end.
    """
    items.sort(key=lambda item: E2E not in item.path.parents)
    reasons = {}
    if not Path("/dev/nvidiactl").exists():
        reasons["gpu"] = "this machine has no NVIDIA GPU"
    if "KAALIA_TEST_NAMESPACES" not in os.environ:
        reasons["docker"] = "a Docker Engine would meddle with this machine's network: run scripts/test as root"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A program run inside a test sets up the logging of the process, to a stream that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def event_loop_guard(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """A blocking call made by kaalia's own code while a loop runs raises BlockingError in that place.

    Only frames of the package count: a test may write a file, a library may do what its authors think right.
    """
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield None
        return
    with blockbuster_ctx("kaalia") as guard:
        for place, functions in ALLOWED.items():
            for blocking in guard.functions.values():
                blocking.can_block_in(place, functions)
        yield guard
