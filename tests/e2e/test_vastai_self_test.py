"""The unmodified client tests a machine of its owner's, in the image that scripts/build-self-test-image makes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.self_tests import room
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the engine's sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="kaalia-") as made:
        yield Path(made)


def test_a_good_machine_passes_and_nothing_of_the_test_stays(folder: Path) -> None:
    with room(folder / "r", bridge="kaalia-proof") as made:
        host = made.first
        host.stack.list_machine()
        early = host.test()
        host.measure()
        host.show()

        found = host.test()

        assert (early["failure_code"], early["phase"]) == ("preflight_requirements_failed", "preflight")
        assert set(early["failure"]["failed_check_ids"]) == {"pcie.bandwidth", "network.download", "network.upload"}
        assert (found["success"], found["phase"]) == (True, "complete"), found["reason"]
        assert (found["offer"]["num_gpus"], found["offer"]["rentable"]) == (2, True)
        wait_until("nothing of it to be left", lambda: not host.left(), 30)
        wait_until("the whole machine to be offered again", lambda: host.stack.rentable_offer(2), 30)
