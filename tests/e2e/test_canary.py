"""The machine proves itself by a container of its own on a real engine, and nothing of it stays."""

import json
import re
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from kaalia.client import LocalClient
from kaalia.errors import UnreachableError
from kaalia.model.canary import CanaryRun, Step
from kaalia.model.selftest import Outcome, StepName
from tests.e2e.rented import destroy, problems, rent, running_stack
from tests.support.canaries import kit_with_program
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("c")
    config: dict[str, Any] = {
        "canary": {"every_hours": 6},
        "access": {"kit_dir": str(kit_with_program(folder))},
    }
    with running_stack(docker_host, folder, config=config, cuda=True) as made:
        yield made


def last(stack: Stack) -> CanaryRun | None:
    try:
        return LocalClient(stack.socket).canary().state.last
    except UnreachableError:
        return None


def own_containers(stack: Stack) -> list[str]:
    listed = stack.engine.request("GET", "/containers/json?all=1")
    return [name for one in listed for name in one["Names"] if re.fullmatch(r"/C\.1\d{12}", name)]


def own_tokens(stack: Stack) -> set[str]:
    found = [stack.engine.find(name.strip("/")) for name in own_containers(stack)]
    variables = [one for document in found if document for one in document["Config"]["Env"] or ()]
    return {one.partition("=")[2] for one in variables if one.startswith("JUPYTER_TOKEN=")}


def own_images(stack: Stack) -> list[str]:
    listed = stack.engine.request("GET", "/images/json")
    return [tag for one in listed for tag in one["RepoTags"] or () if "jupyter" in tag]


def outcomes(run: CanaryRun) -> dict[Step, Outcome]:
    return {one.step: one.outcome for one in run.steps}


def test_a_new_machine_proves_itself_before_it_is_rented(docker_host: PrivateDocker, stack: Stack) -> None:
    run = wait_until("the machine to prove itself", lambda: last(stack), 60)

    quota = Outcome.PASSED if docker_host.enforces_disk_size else Outcome.SKIPPED
    assert outcomes(run) == {
        Step.LAUNCH: Outcome.PASSED,
        Step.GPU: Outcome.SKIPPED,  # the simulated driver has no device nodes
        Step.NETWORK: Outcome.PASSED,
        Step.PORTS: Outcome.PASSED,
        Step.QUOTA: quota,
    }, run.steps
    wait_until("nothing of it to be left", lambda: not own_containers(stack), 30)
    wait_until("nothing to be wrong", lambda: "canary_pending" not in problems(stack), 30)
    assert "foreign_contract" not in stack.log_text("marketplace")


def test_the_owner_asks_for_a_run_and_sees_each_step(stack: Stack) -> None:
    done = stack.kaalia("canary", "--now", "--json", "--socket", str(stack.socket))

    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(done.stdout)["state"]
    assert (state["last"]["cause"], state["failures"]) == ("asked", 0)
    assert [one["step"] for one in state["last"]["steps"]] == [str(step) for step in Step]
    doctor = stack.kaalia("doctor", "--socket", str(stack.socket))
    assert "Canary: passed" in doctor.stdout


def test_the_owner_tests_the_machine_by_the_road_of_tenants(stack: Stack) -> None:
    some = (StepName.SYSTEM, StepName.LAUNCH, StepName.PORTS, StepName.NETWORK, StepName.COMPUTE, StepName.COLLECTIVE)
    only = [word for step in some for word in ("--only", step)]
    done = stack.kaalia("self-test", "machine", "--quick", *only, "--json", "--socket", str(stack.socket))

    assert done.returncode == 0, done.stdout + done.stderr
    steps = {one["step"]: one for one in json.loads(done.stdout)["steps"]}
    assert {one["outcome"] for one in steps.values()} == {"passed"}, done.stdout
    assert steps.keys() == set(some)
    assert "ssh logs in" in steps["launch"]["words"]
    wait_until("nothing of it to be left", lambda: not own_containers(stack), 30)


def test_jupyter_answers_in_a_container_of_the_machines_own_and_nothing_of_it_is_left(stack: Stack) -> None:
    tokens: set[str] = set()
    done = Event()

    def read() -> None:
        """Tokens, as long as there are containers that have one."""
        while not done.wait(0.05):
            tokens.update(own_tokens(stack))

    beside = Thread(target=read)
    beside.start()
    try:
        told = stack.kaalia("self-test", "machine", "--only", "launch", "--json", "--socket", str(stack.socket))
    finally:
        done.set()
        beside.join()

    assert told.returncode == 0, told.stdout + told.stderr
    assert "Jupyter answers by HTTPS to its token alone" in json.loads(told.stdout)["steps"][0]["words"]
    wait_until("nothing of it to be left", lambda: not own_containers(stack) and not own_images(stack), 30)
    (token,) = tokens
    assert not [name for name in ("daemon", "marketplace") if token in stack.log_text(name)]
    assert "certificates: contract 1000" not in stack.log_text("daemon"), "no marketplace was asked for its certificate"


def test_a_machine_that_fails_twice_is_offered_no_more_until_it_passes(stack: Stack) -> None:
    program = stack.folder / "kits" / "current" / "sbin" / "canary"
    stack.list_machine()
    wait_until("the machine to be offered", stack.rentable_offer, 30)
    away = program.rename(program.with_name("away"))

    first, second = (stack.kaalia("canary", "--now", "--socket", str(stack.socket)) for _ in range(2))

    assert (first.returncode, second.returncode) == (1, 1)
    assert "scripts/build-kit" in " ".join(second.stdout.split())
    wait_until("the offers to go", lambda: stack.rentable_offer() is None, 30)
    away.rename(program)
    assert stack.kaalia("canary", "--now", "--socket", str(stack.socket)).returncode == 0
    wait_until("the machine to be offered again", stack.rentable_offer, 30)


def test_what_a_crash_leaves_is_removed_and_a_renter_comes_first(stack: Stack) -> None:
    wait_until("nothing to be left", lambda: not own_containers(stack), 30)
    before = last(stack)
    LocalClient(stack.socket).order_canary()
    wait_until("its container", lambda: own_containers(stack), 30, 0.02)
    stack.kill_daemon()
    assert own_containers(stack)

    stack.start_daemon()

    wait_until("what it left to go", lambda: not own_containers(stack), 60)
    assert last(stack) == before
    stack.list_machine()
    instance = rent(stack)
    stack.wait_status(instance, "running")
    destroy(stack, instance)
