"""A machine that loses its daemon, then its power: both sides tell the same reliability, and the same causes."""

import signal
from collections.abc import Callable, Iterator

import pytest

from kaalia.client import LocalClient
from kaalia.errors import UnreachableError
from kaalia.model.availability import Record
from kaalia.wire.availability import ReliabilityDocument
from tests.e2e.rented import destroy, process, rent, running_stack
from tests.support.clocked import Clocks
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(200)]

SAME = 5e-5
"""Half a minute: so long lie the two questions apart at most."""


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Clocks:
    return Clocks(tmp_path_factory.mktemp("clocks"))


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, clocks: Clocks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("reliability")
    config = {"intervals": {"heartbeat_s": 1, "resync_s": 1}}
    with running_stack(docker_host, folder, "1xRTX_4090", config, clocks=clocks.files) as stack:
        stack.list_machine()
        yield stack


def told(stack: Stack) -> ReliabilityDocument | None:
    """What `kaalia reliability` shows; None while nobody answers, or nothing was told yet."""
    try:
        found = LocalClient(stack.socket).reliability()
    except UnreachableError:
        return None
    return found if found.record else None


def until_explained(stack: Stack, count: int) -> tuple[ReliabilityDocument, Record]:
    """So many silences, each with the host's word on it, known on the machine."""

    def look() -> tuple[ReliabilityDocument, Record] | None:
        found = told(stack)
        if found is None or found.record is None:
            return None
        is_whole = len(found.record.silences) == count and all(one.cause for one in found.record.silences)
        return (found, found.record) if is_whole else None

    return wait_until(f"{count} silences to be known on both sides", look, 60, 0.5)


def lose_the_daemon(stack: Stack, number: int, meanwhile: Callable[[float], None], seconds: float) -> None:
    stack.kill_daemon(number)
    meanwhile(seconds)
    stack.start_daemon()


def test_both_sides_agree_over_a_crash_a_power_cut_and_a_shutdown(stack: Stack, clocks: Clocks) -> None:
    tenant = rent(stack)
    stack.wait_status(tenant, "running")
    before = process(stack, tenant)

    def rented() -> ReliabilityDocument | None:
        found = told(stack)
        return found if found and found.record and found.record.is_rented else None

    first = wait_until("the marketplace to know that it is rented", rented, 30)
    lose_the_daemon(stack, signal.SIGKILL, clocks.passes, 600)
    until_explained(stack, 1)
    lose_the_daemon(stack, signal.SIGKILL, clocks.reboot, 1800)
    until_explained(stack, 2)
    lose_the_daemon(stack, signal.SIGTERM, clocks.reboot, 900)
    found, record = until_explained(stack, 3)

    machine = stack.host_api.get(f"/api/v0/machines/{stack.machine_id}")[0]
    offers = stack.renter_api.call("POST", "/api/v0/bundles/", {"machine_id": {"eq": stack.machine_id}})[1]["offers"]
    figures = [machine["reliability2"], found.told, *(offer["reliability2"] for offer in offers)]
    assert offers
    assert first.reliability is not None
    assert found.reliability is not None
    assert figures == pytest.approx([found.reliability] * len(figures), abs=SAME)
    assert [one.cause for one in record.silences] == ["daemon", "power", "planned"]
    assert all(one.is_rented for one in record.silences)
    lost = first.reliability - found.reliability
    assert lost == pytest.approx(3300 / (7 * 86400), rel=0.08)
    assert sum(line.cost or 0.0 for line in found.ledger) == pytest.approx(lost, rel=0.08)
    shown = stack.kaalia("reliability", "--config", str(stack.config_file)).stdout
    assert "planned" in shown
    assert process(stack, tenant) == before, "a tenant runs on whatever becomes of the figure"
    destroy(stack, tenant)
