"""Who runs on one GPU, through the unmodified client: bids swap, on-demand preempts, the owner's job yields."""

from collections.abc import Iterator

import pytest

from tests.e2e.flows import raw
from tests.e2e.rented import running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

STAY = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(docker_host, tmp_path_factory.mktemp("arbitration"), "1xRTX_4090") as stack:
        raw(stack.host.run("list", "machine", str(stack.machine_id), "-g", "0.4", "-b", "0.1", "--raw"))
        yield stack


def rent(stack: Stack, *options: str) -> int:
    """Rent the GPU with the real client; `options` such as --bid_price 0.2."""
    offer = wait_until("an offer to rent", stack.rentable_offer, 30)
    argv = ("create", "instance", str(offer), "--image", DEMO_IMAGE, "--disk", "1", *options, "--raw")
    return int(raw(stack.renter.run(*argv, "--args", "sh", "-c", STAY))["new_contract"])


def shown(stack: Stack, instance_id: int) -> tuple[str, str, str, str]:
    """The four words of an instance."""
    row = raw(stack.renter.run("show", "instance", str(instance_id), "--raw"))
    return row["intended_status"], row["actual_status"], row["cur_state"], row["next_state"]


def running(stack: Stack) -> list[str]:
    """The names of all containers of contracts that run, by Docker itself."""
    found = stack.engine.request("GET", "/containers/json")
    return sorted(name.strip("/") for one in found for name in one["Names"] if name.startswith("/C."))


def destroy(stack: Stack, *instance_ids: int) -> None:
    for number in instance_ids:
        assert stack.renter.run("destroy", "instance", str(number), "-y").returncode == 0
    wait_until("the containers to go", lambda: not running(stack), 60)


def test_two_bids_swap_on_change_bid(stack: Stack) -> None:
    low = rent(stack, "--bid_price", "0.2")
    stack.wait_status(low, "running")
    high = rent(stack, "--bid_price", "0.3")
    stack.wait_status(high, "running")
    assert running(stack) == [f"C.{high}"]
    assert shown(stack, low) == ("running", "stopped", "stopped", "running")
    assert "outbid" in (stack.instance(low) or {})["status_msg"]

    assert "changed" in stack.renter.run("change", "bid", str(low), "--price", "0.35").stdout
    stack.wait_status(low, "running")
    assert running(stack) == [f"C.{low}"]
    assert shown(stack, high) == ("running", "stopped", "stopped", "running")

    stack.renter.run("change", "bid", str(high))
    row = stack.wait_status(high, "running")
    assert row["dph_base"] == pytest.approx(0.351)
    destroy(stack, low, high)


def test_on_demand_preempts_and_the_loser_resumes_after_destroy(stack: Stack) -> None:
    bid = rent(stack, "--bid_price", "0.9")
    stack.wait_status(bid, "running")
    stack.engine.request("GET", f"/containers/C.{bid}/json")
    container_id = stack.engine.inspect(f"C.{bid}")["Id"]

    firm = rent(stack)
    stack.wait_status(firm, "running")
    assert running(stack) == [f"C.{firm}"]
    assert shown(stack, bid) == ("running", "stopped", "stopped", "running")
    assert "resumes by itself" in (stack.instance(bid) or {})["status_msg"]
    assert stack.rentable_offer() is None

    assert stack.renter.run("destroy", "instance", str(firm), "-y").returncode == 0
    stack.wait_status(bid, "running")
    assert stack.engine.inspect(f"C.{bid}")["Id"] == container_id, "its data are kept"
    destroy(stack, bid)


def test_a_stopped_on_demand_instance_holds_no_gpu_and_its_start_waits(stack: Stack) -> None:
    first = rent(stack)
    stack.wait_status(first, "running")
    assert stack.renter.run("stop", "instance", str(first)).returncode == 0
    stack.wait_status(first, "stopped")
    second = rent(stack)
    stack.wait_status(second, "running")

    assert stack.renter.run("start", "instance", str(first)).returncode == 0
    wait_until("the start to wait", lambda: "scheduling: waits for" in (stack.instance(first) or {})["status_msg"], 30)
    assert shown(stack, first) == ("running", "stopped", "stopped", "running")
    assert running(stack) == [f"C.{second}"]

    assert stack.renter.run("destroy", "instance", str(second), "-y").returncode == 0
    stack.wait_status(first, "running")
    destroy(stack, first)


def test_a_default_job_runs_when_idle_and_yields(stack: Stack) -> None:
    done = stack.host.run(
        *("set", "defjob", str(stack.machine_id), "--price_gpu", "0.05", "--price_inetu", "0", "--price_inetd", "0"),
        *("--image", DEMO_IMAGE, "--args", "sh", "-c", STAY),
    )
    assert "bids created" in done.stdout, done.stdout + done.stderr
    (job,) = wait_until("the job to run", lambda: running(stack), 60)

    rented = rent(stack, "--bid_price", "0.1")
    stack.wait_status(rented, "running")
    assert running(stack) == [f"C.{rented}"]

    assert stack.renter.run("destroy", "instance", str(rented), "-y").returncode == 0
    wait_until("the job to resume", lambda: running(stack) == [job], 60)
    removed = stack.host.run("remove", "defjob", str(stack.machine_id))
    assert removed.returncode == 0, removed.stderr
    wait_until("the job to go", lambda: not running(stack), 60)


def test_bad_bids_are_refused(stack: Stack) -> None:
    offer = wait_until("an offer to rent", stack.rentable_offer, 30)
    low = stack.renter.run("create", "instance", str(offer), "--image", DEMO_IMAGE, "--bid_price", "0.01")
    assert "the owner's least is 0.1" in low.stdout + low.stderr
    firm = rent(stack)
    refused = stack.renter.run("change", "bid", str(firm), "--price", "0.5")
    assert "not interruptible" in refused.stdout + refused.stderr
    missing = stack.renter.run("change", "bid", "999999", "--price", "0.5")
    assert "no such instance" in missing.stdout + missing.stderr
    destroy(stack, firm)


def test_prepaying_makes_an_instance_reserved_and_cheaper(stack: Stack) -> None:
    firm = rent(stack)
    stack.wait_status(firm, "running")
    monthly = 0.4 * 720
    done = stack.renter.run("prepay", "instance", str(firm), str(round(monthly * 0.8, 2)))
    assert "prepaid for 1.0 months" in done.stdout, done.stdout + done.stderr
    assert "discount of 20.0%" in done.stdout
    row = stack.instance(firm) or {}
    assert row["dph_base"] == pytest.approx(0.32)
    deposit = raw(stack.renter.run("show", "deposit", str(firm), "--raw"))
    assert deposit["refundable_deposit"] == pytest.approx(monthly * 0.8, abs=0.1)
    assert deposit["discount_months"] == pytest.approx(1)
    too_much = stack.renter.run("prepay", "instance", str(firm), "100000")
    assert "of credit are free" in too_much.stdout + too_much.stderr
    destroy(stack, firm)
