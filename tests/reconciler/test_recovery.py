"""The daemon dies, the engine goes away, the machine reboots: tenants run on, and the books come true again."""

import asyncio
from datetime import timedelta

import pytest

from kaalia.contracts.contract import Desired
from kaalia.errors import WorkloadError
from kaalia.model.workload import WorkloadState
from kaalia.reconciler import crash
from kaalia.runtime.base import ObservedState
from kaalia.store import claims, contracts, workloads
from kaalia.store.changes import Topic
from kaalia.store.claims import ClaimKind
from tests.reconciler.rig import Rig, contract

LAUNCHING = ("create.intended", "create.done", "start.done", "launch.recorded")
STOPPING = ("stop.intended", "stop.done", "stop.recorded")
REMOVING = ("remove.intended", "remove.done", "remove.recorded")
RENEWING = ("renew.intended", "pull.done", "discard.intended", "discard.done", "discard.recorded")
"""Tried in test_renew."""


async def crash_during(rig: Rig, point: str) -> None:
    """Die at the point; what the dead process was doing is not cleaned up."""
    rig.crash_at = point
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: None)
    await rig.service.reconcile()
    await rig.until(lambda: _died(rig))
    loop.set_exception_handler(None)
    await rig.restart()


async def _died(rig: Rig) -> bool:
    if rig.crash_at is not None and rig.service.is_idle:
        await rig.service.reconcile()
    return rig.crash_at is None and rig.service.is_idle


@pytest.mark.parametrize("point", LAUNCHING)
async def test_a_crash_while_launching_ends_in_one_running_container(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await crash_during(rig, point)

    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.count("start") == 1
    assert await rig.open_intents() == []
    assert {int(claim.key) for claim in await rig.claims() if claim.kind.startswith("port")} == {
        port.host_port for port in rig.runtime.containers[51].ports
    }


async def test_a_launch_that_broke_off_and_is_stopped_leaves_no_network_behind(rig: Rig) -> None:
    """The network comes before the container: a subnet that is given back while it is there has two owners."""
    await rig.put(contract())
    await crash_during(rig, "create.intended")
    rig.runtime.networks[51] = next(claim.key for claim in await rig.claims() if claim.kind is ClaimKind.SUBNET)
    await rig.put(contract(desired=Desired.STOPPED))

    await rig.settle()

    assert (await rig.state(), rig.runtime.networks) == (WorkloadState.STOPPED, {})
    assert await rig.claims() == set()
    assert await rig.open_intents() == []
    await rig.put(contract())
    await rig.settle()
    assert await rig.state() is WorkloadState.RUNNING


@pytest.mark.parametrize("point", ["pull.intended", "pull.done"])
async def test_a_crash_while_pulling_begins_again(rig: Rig, point: str) -> None:
    rig.runtime.images.clear()
    await rig.put(contract())
    await crash_during(rig, point)

    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert await rig.open_intents() == []


@pytest.mark.parametrize("point", STOPPING)
async def test_a_crash_while_stopping_ends_stopped(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await crash_during(rig, point)

    await rig.settle()

    assert await rig.state() is WorkloadState.STOPPED
    assert {claim.kind for claim in await rig.claims()} == {"port/tcp", "subnet"}
    assert await rig.open_intents() == []


@pytest.mark.parametrize("point", REMOVING)
async def test_a_crash_while_removing_ends_with_nothing_left(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.ENDED))
    await crash_during(rig, point)

    await rig.settle()

    assert await rig.state() is WorkloadState.ENDED
    assert rig.runtime.containers == {}
    assert await rig.claims() == set()
    assert await rig.open_intents() == []


@pytest.mark.parametrize("point", ["start.intended", "start.done"])
async def test_a_crash_while_starting_again_starts_once(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    rig.clock.advance(5)
    await rig.put(contract())
    await crash_during(rig, point)

    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.count("start") == 2


@pytest.mark.parametrize(("point", "stops"), [("stop.intended", 1), ("stop.done", 1), ("start.done", 1)])
async def test_a_crash_in_a_reboot_reboots_once(rig: Rig, point: str, stops: int) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(5)
    await rig.put(contract(restart_count=1))
    await crash_during(rig, point)

    await rig.settle()

    row = await rig.row()
    assert (row.state, row.restarts_done) == (WorkloadState.RUNNING, 1)
    assert rig.runtime.count("stop") == stops
    assert rig.runtime.count("start") == 2
    assert await rig.open_intents() == []


def test_every_crash_point_has_a_test() -> None:
    tested = {*LAUNCHING, *STOPPING, *REMOVING, *RENEWING, "pull.intended", "pull.done", "start.intended", "start.done"}

    assert tested == set(crash.POINTS)


async def test_a_restarted_daemon_announces_what_runs(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(3)
    told = len(await rig.words())

    await rig.restart()
    await rig.service.reconcile()
    await rig.idle()

    assert len(await rig.words()) == told + 1
    assert (await rig.row()).as_of == rig.clock.now()
    assert rig.runtime.count("start") == 1


async def test_lost_books_are_rebuilt_from_what_runs(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    before = await rig.claims()

    def lose(tx: object) -> None:
        workloads.delete(tx, 51)  # type: ignore[arg-type]
        claims.release(tx, 51)  # type: ignore[arg-type]

    await rig.store.transaction(lose)
    await rig.restart()
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert await rig.claims() == {claim for claim in before if claim.kind != "subnet"}
    assert rig.runtime.count("start") == 1


async def test_a_silent_engine_stops_nobody_and_is_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.runtime.go_down()
    for _ in range(5):
        await rig.later(seconds=60)

    row = await rig.row()
    assert row.state is WorkloadState.UNKNOWN
    assert row.ports
    assert sum("until the container engine answers" in record.message for record in caplog.records) == 1

    # The contract ends while nobody can look: nothing is done before the next look.
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.later(seconds=60)
    assert rig.runtime.count("stop") == 0

    await rig.put(contract())
    rig.runtime.come_up()
    await rig.later(seconds=60)

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.count("start") == 1


async def test_others_hear_at_once_that_the_engine_went_and_came(rig: Rig) -> None:
    heard = rig.changes.subscribe(Topic.ENGINE)
    await rig.put(contract())
    await rig.settle()
    assert not heard.is_set()

    rig.runtime.go_down()
    await rig.later(seconds=60)
    assert heard.is_set()
    heard.clear()
    await rig.later(seconds=60)
    assert not heard.is_set()

    rig.runtime.come_up()
    await rig.later(seconds=60)
    assert heard.is_set()


async def test_what_an_engine_outage_ended_is_started_again(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(100)
    rig.runtime.go_down()
    await rig.later(seconds=10)
    rig.runtime.reboot(exit_code=137)
    rig.runtime.come_up()

    await rig.later(seconds=10)

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.count("start") == 2


@pytest.mark.parametrize("verb", ["create", "start", "stop", "remove"])
async def test_an_answer_that_is_lost_after_the_effect_changes_nothing(rig: Rig, verb: str) -> None:
    rig.runtime.faults.answer_lost = {verb}
    for desired in (Desired.RUNNING, Desired.STOPPED, Desired.ENDED):
        await rig.put(contract(desired=desired))
        await rig.settle()
        await rig.later(seconds=5)

    assert await rig.state() is WorkloadState.ENDED
    assert rig.runtime.faults.answer_lost == set()
    assert rig.runtime.containers == {}
    assert await rig.claims() == set()
    assert await rig.open_intents() == []


async def test_a_reboot_of_the_machine_starts_what_ran(rig: Rig) -> None:
    await rig.put(contract(51), contract(52))
    await rig.settle()
    rig.runtime.exit(52, 0)
    await rig.later(seconds=5)
    assert await rig.state(52) is WorkloadState.EXITED
    rig.clock.advance(3600)
    rig.runtime.reboot()
    rig.clock.advance(60)

    await rig.restart(booted_days_ago=30 / 86400)
    await rig.settle()

    assert await rig.state(51) is WorkloadState.RUNNING
    assert await rig.state(52) is WorkloadState.EXITED


@pytest.mark.parametrize("code", ["volume_missing", "command_timeout"])
async def test_a_volume_that_comes_late_after_a_reboot_is_waited_for(rig: Rig, code: str) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(3600)
    rig.runtime.reboot()
    rig.mounts_fail_with = WorkloadError(code, "cannot mount volume 5")
    rig.clock.advance(60)

    await rig.restart(booted_days_ago=30 / 86400)
    for _ in range(10):
        await rig.later(minutes=3)
    assert await rig.state() is WorkloadState.STARTING
    assert {claim.kind for claim in await rig.claims()} >= {ClaimKind.GPU}

    rig.mounts_fail_with = None
    await rig.later(minutes=3)
    assert await rig.state() is WorkloadState.RUNNING


async def test_a_process_that_ended_while_the_daemon_was_away_stays_ended(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(3600)
    rig.runtime.exit(51, 0)

    await rig.restart(booted_days_ago=3)
    await rig.settle()

    assert await rig.state() is WorkloadState.EXITED


async def test_a_container_that_somebody_removed_is_told_and_not_made_again(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.runtime.vanish(51)

    await rig.later(seconds=60)

    row = await rig.row()
    assert row.state is WorkloadState.FAILED
    assert row.problem is not None
    assert row.problem.code == "workload_lost"
    assert await rig.claims() == set()
    assert rig.runtime.count("create") == 1

    await rig.put(contract(generation=2))
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING


async def test_a_paused_container_is_told_and_left_alone(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.runtime.set_state(51, ObservedState.PAUSED)
    await rig.later(seconds=60)

    row = await rig.row()
    assert row.problem is not None
    assert row.problem.code == "workload_paused"
    assert any(claim.kind == "gpu" for claim in await rig.claims())

    rig.runtime.set_state(51, ObservedState.RUNNING)
    await rig.later(seconds=60)

    assert await rig.state() is WorkloadState.RUNNING
    assert (await rig.row()).problem is None
    assert rig.runtime.count("stop") == 0


async def test_a_contract_that_snapshots_leave_out_runs_until_two_revisions_and_half_an_hour(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.store.transaction(lambda tx: contracts.mark_missing(tx, 51, rig.clock.now()))
    await rig.later(minutes=31)
    assert await rig.state() is WorkloadState.RUNNING

    await rig.store.transaction(lambda tx: contracts.mark_missing(tx, 51, rig.clock.now()))
    await rig.later(seconds=1)

    assert await rig.state() is WorkloadState.ENDED
    assert rig.runtime.containers == {}


async def test_an_orphan_keeps_its_gpu_until_its_label_ends_it(rig: Rig) -> None:
    end_at = rig.clock.now() + timedelta(hours=1)
    await rig.put(contract(end_at=end_at))
    await rig.settle()
    await rig.store.transaction(lambda tx: contracts.delete(tx, 51))
    await rig.put(contract(52, gpus=2))
    await rig.later(minutes=30)

    assert 51 in rig.runtime.running()
    assert await rig.state(52) is WorkloadState.WAITING

    await rig.speak()
    await rig.later(minutes=30)

    assert 51 not in rig.runtime.running()
    assert await rig.state(52) is WorkloadState.RUNNING


async def test_an_orphan_goes_after_two_newer_words_and_half_an_hour(rig: Rig) -> None:
    await rig.put(contract(end_at=None))
    await rig.settle()
    await rig.store.transaction(lambda tx: contracts.delete(tx, 51))
    await rig.settle()
    await rig.later(minutes=40)
    assert 51 in rig.runtime.running()

    await rig.speak()
    await rig.speak()
    await rig.later(seconds=1)

    assert rig.runtime.containers == {}
    assert await rig.claims() == set()
