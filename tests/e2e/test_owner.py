"""The owner's side through the real clients: what was agreed holds against him, what he forbids holds against all."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.flows import raw
from tests.e2e.rented import destroy, problem, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

POLICY = {
    "min_price_gpu_per_hour": 0.2,
    "banned_images": ["*/xmrig*", "kaalia/demo:expose"],
    "admit_default_jobs": False,
}
BANNED = "docker.io/kaalia/demo:expose"
STAY = ("--args", "sleep", "9999")


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("owner")
    with running_stack(docker_host, folder, config={"policy": POLICY}) as stack:
        yield stack


def test_rented_just_before_the_price_rises_and_the_offer_goes(stack: Stack) -> None:
    """The machine hears of the rental and of the new terms in one snapshot: it was not there in between."""
    stack.list_machine(0.4)
    machine = str(stack.machine_id)
    offer = str(wait_until("an offer to rent", lambda: stack.rentable_offer(1), 30))
    stack.kill_daemon()
    made = raw(stack.renter.run("create", "instance", offer, "--image", DEMO_IMAGE, "--disk", "1", "--raw", *STAY))
    stack.host.run("list", "machine", machine, "-g", "9", "-b", "8", "-m", "2", "-e", str(time.time() + 3600))
    assert stack.host.run("unlist", "machine", machine).returncode == 0

    stack.start_daemon()

    instance = int(made["new_contract"])
    row = stack.wait_status(instance, "running")
    assert row["dph_base"] == pytest.approx(0.4)
    wait_until("the daemon to know that it is not listed", lambda: _price(stack) is None, 10)
    assert stack.engine.inspect(f"C.{instance}")["State"]["Running"]
    destroy(stack, instance)


def test_a_banned_image_is_refused_with_its_code_under_every_name(stack: Stack) -> None:
    stack.list_machine(0.4)
    for name in (BANNED, "kaalia/demo:expose", "registry-1.docker.io:443/kaalia/demo:expose"):
        offer = str(wait_until("an offer to rent", lambda: stack.rentable_offer(1), 30))
        done = stack.renter.run("create", "instance", offer, "--image", name, "--disk", "1", "--raw", *STAY)
        instance = int(raw(done)["new_contract"])
        stack.wait_status(instance, "exited")

        shown = raw(stack.renter.run("show", "instance", str(instance), "--raw"))
        assert "[image_banned]" in shown["status_msg"]
        assert "bans 'kaalia/demo:expose'" in shown["status_msg"]
        assert shown["cur_state"] == "unloaded"
        assert problem(stack, instance).code == "image_banned"
        assert not stack.engine.has_container(f"C.{instance}")
        destroy(stack, instance)

    allowed = rent(stack)
    stack.wait_status(allowed, "running")
    destroy(stack, allowed)


def test_a_listing_below_the_machines_own_price_rents_nothing(stack: Stack) -> None:
    stack.list_machine(0.1)
    instance = rent(stack)
    stack.wait_status(instance, "exited")

    shown = raw(stack.renter.run("show", "instance", str(instance), "--raw"))

    assert "[price_below_policy]" in shown["status_msg"]
    assert "at least 0.2" in shown["status_msg"]
    destroy(stack, instance)


def test_default_jobs_that_the_machine_does_not_admit(stack: Stack) -> None:
    done = stack.host.run(
        *("set", "defjob", str(stack.machine_id), "--price_gpu", "0.05", "--price_inetu", "0", "--price_inetd", "0"),
        *("--image", DEMO_IMAGE, "--args", "sleep", "9999"),
    )
    assert "bids created" in done.stdout, done.stdout + done.stderr

    wait_until("the jobs to be refused", lambda: _states(stack).get("rejected", 0) == 2, 30)
    assert stack.host.run("remove", "defjob", str(stack.machine_id)).returncode == 0
    wait_until("the jobs to go", lambda: not _states(stack).get("rejected"), 30)


def test_a_stricter_policy_lets_run_what_runs(stack: Stack) -> None:
    stack.list_machine(0.4)
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before = stack.engine.inspect(f"C.{instance}")["State"]
    stack.kill_daemon()
    text = stack.config_file.read_text()
    stack.config_file.write_text(text.replace("min_price_gpu_per_hour: 0.2", "min_price_gpu_per_hour: 5"))
    stack.start_daemon()
    try:
        later = rent(stack)
        refused = stack.wait_status(later, "exited")
        assert "[price_below_policy]" in refused["status_msg"]
        assert stack.engine.inspect(f"C.{instance}")["State"] == before
        destroy(stack, instance, later)
    finally:
        stack.config_file.write_text(text)


def _price(stack: Stack) -> object:
    found = status(stack)
    return found.price_gpu_per_hour if found else 0


def _states(stack: Stack) -> dict[str, int]:
    found = status(stack)
    return {str(state): count for state, count in found.contracts.items()} if found else {}
