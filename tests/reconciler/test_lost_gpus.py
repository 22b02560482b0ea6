"""A container loses the right to its GPUs while it runs: its renter reads it, and nothing is stopped for it."""

from kaalia.contracts import fitness
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.store import conditions
from tests.reconciler.rig import Rig, contract

PLAIN = "success, running docker.io/library/busybox:1.36/args"
ALARMING = ("error", "fail", "exception", "traceback", "denied", "oci runtime")
"""facts of the public client: a running instance whose words have one of these is taken for lost."""


async def lose(rig: Rig, *scopes: str) -> None:
    now = rig.clock.now()
    problem = Problem(fitness.LOST_INSIDE, "cannot use its GPUs any more")
    found = [Condition(problem, Severity.CRITICAL, "it may again", scope) for scope in scopes]
    await rig.store.transaction(lambda tx: conditions.replace(tx, "gpu-inside", found, now))
    await rig.settle()


async def test_the_renter_is_told_and_nothing_is_stopped(rig: Rig) -> None:
    await rig.put(contract(), contract(52))
    await rig.settle()

    await lose(rig, "C.51")

    told = (await rig.row()).status_msg
    assert told.startswith(f"{PLAIN}; warning: programs inside cannot use its GPUs since ")
    assert "vastai reboot instance 51" in told
    assert not any(word in told.lower() for word in ALARMING)
    assert (await rig.row(52)).status_msg == PLAIN
    assert rig.runtime.count("stop") == rig.runtime.count("remove") == 0


async def test_it_is_taken_back_when_they_are_there_again(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await lose(rig, "C.51")

    await lose(rig)

    assert (await rig.row()).status_msg == PLAIN


async def test_a_start_after_it_gave_them_back(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await lose(rig, "C.51")
    rig.clock.advance(5)

    await rig.put(contract(restart_count=1))
    await rig.settle()

    assert (await rig.row()).status_msg == PLAIN


async def test_other_parts_concern_no_contract(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    await lose(rig, "host", "C.", "C.x", "container C.51")

    assert (await rig.row()).status_msg == PLAIN
