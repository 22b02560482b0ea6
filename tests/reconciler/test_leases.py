"""Leases go by the time of contracts, not by the wall clock."""

from datetime import timedelta

from kaalia.contracts.lease import LeaseTime, certain
from kaalia.model.workload import WorkloadState
from tests.reconciler.rig import Rig, contract
from tests.support.clock import START

HOUR = timedelta(hours=1)


async def test_a_wall_clock_that_jumps_ends_no_lease_and_prolongs_none(rig: Rig) -> None:
    rig.lease_time = certain(START)
    await rig.put(contract(51, end_at=START + HOUR), contract(52, end_at=START + 9 * HOUR))
    await rig.settle()

    await rig.later(hours=5)
    assert await rig.state(51) is WorkloadState.RUNNING

    rig.lease_time = certain(START + HOUR)
    await rig.later(hours=-9)
    assert await rig.state(51) is WorkloadState.STOPPED
    assert await rig.state(52) is WorkloadState.RUNNING


async def test_while_the_time_is_in_doubt_what_may_be_over_goes_on_and_nothing_is_admitted(rig: Rig) -> None:
    await rig.put(contract(51, end_at=START + HOUR / 4))
    await rig.settle()
    rig.lease_time = LeaseTime(START, START + HOUR / 2, False)
    await rig.put(contract(52, end_at=START + 9 * HOUR))
    await rig.settle()

    assert await rig.state(51) is WorkloadState.RUNNING
    assert await rig.state(52) is WorkloadState.WAITING
    assert "not confirmed" in (await rig.row(52)).status_msg

    rig.lease_time = certain(START + HOUR / 2)
    await rig.later()
    assert await rig.state(51) is WorkloadState.STOPPED
    assert await rig.state(52) is WorkloadState.RUNNING


async def test_what_may_be_over_is_not_started_again_after_a_reboot_before_the_time_is_known(rig: Rig) -> None:
    await rig.put(contract(51, end_at=START + HOUR))
    await rig.settle()
    rig.clock.advance(120)
    rig.runtime.reboot()
    rig.lease_time = LeaseTime(START, START + 2 * HOUR, False)
    await rig.restart(booted_days_ago=30 / 86400)
    await rig.settle()

    assert await rig.state(51) is WorkloadState.STOPPED
    assert "may have ended" in (await rig.row(51)).status_msg

    rig.lease_time = certain(START + HOUR / 2)
    await rig.later()
    assert await rig.state(51) is WorkloadState.RUNNING


async def test_statuses_stay_in_order_when_the_wall_clock_goes_back(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    before = (await rig.row()).as_of
    rig.clock.jump(-9 * 3600)
    rig.runtime.exit(51, 0)
    await rig.later(seconds=1)

    assert await rig.state() is WorkloadState.EXITED
    assert (await rig.row()).as_of >= before
