"""Docker killed, absent, back again: tenants do not notice, renters are not told a lie, and waiting rentals run."""

import time
from collections.abc import Iterator

import pytest

from kaalia.client import LocalClient
from tests.e2e.rented import SLEEP, problems, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that reports every second."""
    config = {"intervals": {"report_s": 1}}
    with running_stack(docker_host, tmp_path_factory.mktemp("engine"), config=config) as stack:
        stack.list_machine()
        yield stack


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> int:
    instance_id = rent(stack)
    stack.wait_status(instance_id, "running")
    return instance_id


def open_conditions(stack: Stack) -> set[str]:
    return {one.condition.problem.code for one in LocalClient(stack.socket).health().open}


@pytest.fixture(autouse=True)
def engine_back(docker_host: PrivateDocker) -> Iterator[None]:
    """A test that breaks off in an outage must not take the engine from the others."""
    yield
    if not docker_host.answers():
        docker_host.start()


def test_an_outage_is_no_stop_and_what_is_rented_meanwhile_runs_afterwards(
    stack: Stack, tenant: int, docker_host: PrivateDocker
) -> None:
    before = process(stack, tenant)
    docker_host.kill()
    late = stack.rent(stack.rentable_offer(1) or 0, **SLEEP)
    seen: set[str | None] = set()
    ends_at = time.monotonic() + 3
    while time.monotonic() < ends_at or "unknown" not in seen:
        assert time.monotonic() < ends_at + 20, seen
        row = stack.instance(tenant)
        assert row is not None
        seen.add(row["actual_status"])
        time.sleep(0.02)

    wait_until("the host to be told", lambda: problems(stack) == {"engine_unavailable"}, 10)
    shown = stack.kaalia("status", "--config", str(stack.config_file))
    assert (shown.returncode, "[engine_unavailable]" in shown.stdout) == (1, True), shown.stdout
    assert "start Docker" in shown.stdout
    wait_until("the doctor to know since when", lambda: "engine_unavailable" in open_conditions(stack), 10)
    waiting = stack.instance(late)
    docker_host.start()

    assert seen <= {"running", "unknown"}
    assert waiting is not None
    assert waiting["actual_status"] not in ("running", "exited", "stopped")
    stack.wait_status(tenant, "running", 30)
    stack.wait_status(late, "running", 30)
    assert process(stack, tenant) == before
    wait_until("the host to see that all is well", lambda: problems(stack) == set(), 20)
    assert "engine_unavailable" not in open_conditions(stack)
    assert "nothing is done until the container engine answers" in stack.log_text("daemon")


def test_a_daemon_that_starts_without_docker_says_so_and_goes_on_when_it_comes(
    stack: Stack, tenant: int, docker_host: PrivateDocker
) -> None:
    before = process(stack, tenant)
    stack.kill_daemon()
    docker_host.kill()
    stack.start_daemon()

    wait_until("the daemon to miss Docker", lambda: "engine_unavailable" in problems(stack), 20)
    row = stack.instance(tenant)
    docker_host.start()

    assert row is not None
    assert row["actual_status"] in ("running", "unknown")
    wait_until("all to be well", lambda: problems(stack) == set(), 30)
    wait_until("the daemon to find the tenant", lambda: stack.local_state(tenant) == "running", 30)
    stack.wait_status(tenant, "running", 30)
    assert process(stack, tenant) == before
