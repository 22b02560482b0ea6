"""What the tests of faults share: a stack of their own, a tenant that must not notice, and what is told of a fault."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from kaalia.errors import Problem, UnreachableError
from kaalia.wire.local import DaemonStatus
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.rest import Rest
from tests.support.scene import simulated_gpus
from tests.support.stack import Stack, StackOptions
from tests.support.waiting import wait_until

SLEEP = {"image": DEMO_IMAGE, "disk": 1, "runtype": "args", "args": ["sleep", "9999"]}
"""A rental that runs and does nothing."""


@contextmanager
def running_stack(
    engine: PrivateDocker,
    folder: Path,
    gpus: str = "2xRTX_4090",
    config: dict[str, Any] | None = None,
    *,
    cuda: bool = False,
    **more: Any,
) -> Iterator[Stack]:
    """A stack that is up, and ended with all that it runs. `more`: further StackOptions."""
    options = StackOptions(engine, gpu_env=simulated_gpus(folder, gpus, cuda=cuda), extra_config=config, **more)
    stack = Stack(folder, options)
    try:
        stack.up()
        yield stack
        stack.remove_workloads()
    finally:
        stack.close()


def rent(stack: Stack, api: Rest | None = None, **body: Any) -> int:
    """Rent one GPU, as soon as there is one; `api`: as somebody else than the stack's renter.

    Offers are made anew when others come and go, so one may be gone a moment after the search.
    """

    def accept() -> int | None:
        offer = stack.rentable_offer(1)
        if offer is None:
            return None
        code, reply = (api or stack.renter_api).call("PUT", f"/api/v0/asks/{offer}/", {**SLEEP, **body})
        assert code == 200 or "no_such_ask" in str(reply), reply
        return int(reply["new_contract"]) if code == 200 else None

    return wait_until("one GPU to rent", accept, 30)


def destroy(stack: Stack, *instance_ids: int) -> None:
    """Destroy, and wait until the containers are gone and the marketplace knows it."""
    for number in instance_ids:
        stack.renter_api.call("DELETE", f"/api/v0/instances/{number}/", {})
    wait_until("the containers to go", lambda: all(is_gone(stack, number) for number in instance_ids), 30)
    wait_until("the machine to have told it", lambda: has_told_all(stack), 30)


def is_gone(stack: Stack, instance_id: int) -> bool:
    is_over = stack.local_state(instance_id) in (None, "ended")
    return is_over and not stack.engine.has_container(f"C.{instance_id}")


def has_told_all(stack: Stack) -> bool:
    found = status(stack)
    return bool(found and found.marketplace and not found.marketplace.unsent_messages)


def process(stack: Stack, instance_id: int) -> tuple[int, str]:
    """Main process and its start, by Docker itself: what a tenant would notice. No container: (0, "")."""
    found = stack.engine.find(f"C.{instance_id}")
    return (int(found["State"]["Pid"]), str(found["State"]["StartedAt"])) if found else (0, "")


def problem(stack: Stack, instance_id: int) -> Problem:
    """What `kaalia contracts` tells the host about an instance that went wrong."""
    found = LocalClient(stack.socket).contract(instance_id).problem
    assert found is not None
    return found


def status(stack: Stack) -> DaemonStatus | None:
    """What `kaalia status` shows; None while nobody answers."""
    try:
        return LocalClient(stack.socket).status()
    except UnreachableError:
        return None


def problems(stack: Stack) -> set[str]:
    """The codes that `kaalia status` shows."""
    found = status(stack)
    return {one.code for one in found.problems} if found else {"no answer"}


def refusal(answer: tuple[int, Any]) -> tuple[int, str, str]:
    """Status, code and sentence of a refused request."""
    code, body = answer
    assert isinstance(body, Mapping), body
    assert body["success"] is False
    return code, str(body["error"]), str(body["msg"])


@contextmanager
def listening(*ports: int) -> Iterator[None]:
    """A program of the host's own that holds TCP ports."""
    sockets = [socket.create_server(("0.0.0.0", port)) for port in ports]
    try:
        yield
    finally:
        for one in sockets:
            one.close()
