"""The ledger and its audit in a whole daemon: what a person reads, and a stranger on a rented GPU."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.client import LocalClient
from kaalia.units import GB
from kaalia.wire.ledger import LedgerView, Resource
from tests.e2e.rented import destroy, process, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.profiles import gpu_uuid, machine, setting, write
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

GPUS = "2xRTX_4090"
LOOK_S = 2


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"intervals": {"resync_s": LOOK_S, "report_s": LOOK_S}}
    with running_stack(docker_host, tmp_path_factory.mktemp("ledger"), GPUS, config) as stack:
        stack.list_machine()
        yield stack


def view(stack: Stack, resource: Resource) -> LedgerView:
    return next(one for one in LocalClient(stack.socket).ledger().views if one.resource is resource)


def owners(stack: Stack, resource: Resource) -> list[str]:
    return [row.owner for row in view(stack, resource).rows if row.owner]


def wrong(stack: Stack) -> set[str]:
    found = status(stack)
    assert found is not None
    return {problem.code for problem in (*found.problems, *found.warnings) if problem.code.startswith("audit_")}


def uses(stack: Stack, gpu: int, *pids: int) -> None:
    """The driver names these processes as users of a GPU."""
    lines = setting(gpu, "processes", " ".join(map(str, pids))) if pids else ""
    write(Path(stack.folder) / "gpus.txt", lines + machine(GPUS))


def test_a_rental_stands_in_the_ledger_until_it_is_gone(stack: Stack) -> None:
    number = rent(stack, env="-p 80:80")
    stack.wait_status(number, "running")
    name = f"C.{number}"

    for resource in Resource:
        assert set(owners(stack, resource)) == {name}, resource
    assert view(stack, Resource.DISK).held == 1 * GB
    (held,) = (row for row in view(stack, Resource.GPU).rows if row.owner)
    assert held.state == "running"
    half = view(stack, Resource.CPU)
    assert half.total is not None
    assert half.held == half.total // 2

    done = stack.kaalia("ledger", "gpu", "--config", str(stack.config_file))
    assert done.returncode == 0
    assert name in done.stdout
    assert "1, 1 free of 2" in done.stdout

    stack.renter_api.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    stack.wait_status(number, "stopped")
    assert {resource: owners(stack, resource) for resource in (Resource.GPU, Resource.CPU, Resource.RAM)} == {
        Resource.GPU: [],
        Resource.CPU: [],
        Resource.RAM: [],
    }
    assert owners(stack, Resource.DISK) == [name]

    destroy(stack, number)
    assert [owners(stack, resource) for resource in Resource] == [[]] * len(Resource)
    assert wrong(stack) == set()


def test_a_stranger_on_a_rented_gpu_is_told_and_nobody_is_stopped(stack: Stack) -> None:
    number = rent(stack)
    stack.wait_status(number, "running")
    (uuid,) = (row.name for row in view(stack, Resource.GPU).rows if row.owner)
    index = next(index for index in range(2) if gpu_uuid(index) == uuid)
    tenant = process(stack, number)

    uses(stack, index, tenant[0])
    time.sleep(6 * LOOK_S)
    assert wrong(stack) == set()  # the kernel says that this process is the tenant's

    uses(stack, index, tenant[0], os.getpid())
    wait_until("the audit to tell", lambda: wrong(stack) == {"audit_gpu_foreign_process"}, 30)
    done = stack.kaalia("status", "--config", str(stack.config_file))
    assert done.returncode == 1
    assert f"pid {os.getpid()}" in done.stdout
    assert f"pid {tenant[0]}" not in done.stdout
    assert f"rented as C.{number}" in done.stdout

    uses(stack, index)
    wait_until("the audit to be content", lambda: wrong(stack) == set(), 30)
    assert process(stack, number) == tenant
    destroy(stack, number)


def test_a_port_that_leads_nowhere_any_more_is_told(stack: Stack) -> None:
    """Somebody takes the pause container, and with it the tenant, off its network by hand."""
    number = rent(stack, env="-p 80:80")
    stack.wait_status(number, "running")
    tenant = process(stack, number)
    pause = f"kaalia-sandbox-{number}"
    ((network, endpoint),) = stack.engine.inspect(pause)["NetworkSettings"]["Networks"].items()
    address = endpoint["IPAddress"]
    body = {"Container": pause, "Force": True}

    stack.engine.request("POST", f"/networks/{network}/disconnect", body)
    wait_until("the audit to tell", lambda: wrong(stack) == {"audit_port_taken"}, 30)

    body = {"Container": pause, "EndpointConfig": {"IPAMConfig": {"IPv4Address": address}}}
    stack.engine.request("POST", f"/networks/{network}/connect", body)
    wait_until("the audit to be content", lambda: wrong(stack) == set(), 30)
    assert process(stack, number) == tenant
    destroy(stack, number)


def test_a_network_that_somebody_ended_is_told_and_a_reboot_opens_it(stack: Stack) -> None:
    number = rent(stack, env="-p 80:80")
    stack.wait_status(number, "running")
    tenant = process(stack, number)

    stack.engine.request("POST", f"/containers/kaalia-sandbox-{number}/kill")
    wait_until("the audit to tell", lambda: wrong(stack) == {"audit_network_lost"}, 30)
    assert process(stack, number) == tenant

    stack.renter_api.call("PUT", f"/api/v0/instances/reboot/{number}/", {})
    wait_until("the audit to be content", lambda: wrong(stack) == set(), 30)
    stack.wait_status(number, "running")
    assert process(stack, number) != tenant
    destroy(stack, number)
