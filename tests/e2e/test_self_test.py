"""The machine's own test with the real daemon: what `kill -9` leaves on Docker's disk goes with the next start."""

import shutil
from pathlib import Path

import pytest

from kaalia.capability import fio
from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from kaalia.model.selftest import StepName
from kaalia.wire.selftest_local import SelfTestDocument, SelfTestWish
from tests.e2e.flows import World
from tests.support.docker_engine import PrivateDocker
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_a_measurement_of_the_disk_does_not_outlive_its_daemon_for_long(
    world: World, docker_host: PrivateDocker
) -> None:
    stack, folder = world.stack, Path(docker_host.data_root)
    client = LocalClient(stack.socket)
    wait_until("the machine to be read", lambda: _disk(client), 60)
    client.order_self_test(SelfTestWish(only=(StepName.DISK,)))
    wait_until("fio to write", lambda: fio.writers(folder) and (folder / fio.FILE).exists(), 60)

    stack.kill_daemon()
    assert (folder / fio.FILE).exists(), "this is what it is about"
    stack.start_daemon()

    wait_until("the next one to answer", lambda: _newest(client), 60)
    wait_until("nothing to be left", lambda: not (folder / fio.FILE).exists() and not fio.writers(folder), 5)
    assert not client.report_details().ordered, "its test ended with the daemon"
    run = client.self_test().run
    assert run is not None
    assert run.problem is not None
    assert run.problem.code == "selftest_interrupted"


def _disk(client: LocalClient) -> bool:
    try:
        return client.report().disk is not None
    except KaaliaError:
        return False


def _newest(client: LocalClient) -> SelfTestDocument | None:
    try:
        found = client.self_test()
    except KaaliaError:
        return None
    return found if found.run is not None and found.run.result is not None else None
