"""A machine that is closed for a while: by its owner's cordon, or by maintenance. What runs goes on."""

from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts import cordon
from kaalia.contracts.contract import ContractKind, Desired
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.contracts.placement import plan
from kaalia.contracts.wish import Held, Machine, Want, Wish
from kaalia.model.workload import WorkloadState
from kaalia.units import GB
from tests.contracts.test_placement import UUIDS, by_id, contract, machine, only, running
from tests.support.builders import build_status
from tests.support.clock import START

HOUR = timedelta(hours=1)
NOW_WINDOW = Window(START - HOUR, START + HOUR, START - HOUR / 2, "gpu")
REASON = cordon.words(Cordon(START))


def cordoned(**changes: object) -> Machine:
    return replace(machine(closed_because=REASON, is_cordoned=True), **changes)  # type: ignore[arg-type]


def want(held: Held, on: Machine) -> Want:
    return only(held, on).want


def test_a_cordon_holds_back_what_is_new_and_leaves_what_runs() -> None:
    bid = contract(kind=ContractKind.INTERRUPTIBLE)

    wish = only(Held(contract()), cordoned())
    assert (wish.want, wish.reason) == (Want.WAIT, "scheduling: the owner drains the machine and admits nothing new")
    for kind in (ContractKind.ON_DEMAND, ContractKind.RESERVED, ContractKind.INTERRUPTIBLE):
        assert want(running(contract(kind=kind)), cordoned()) is Want.RUN
        assert want(running(contract(kind=kind), state=WorkloadState.STOPPED), cordoned()) is Want.RUN
    assert want(Held(bid), cordoned()) is Want.WAIT


def test_under_a_cordon_the_owners_job_gives_way_and_his_self_test_runs() -> None:
    job = contract(kind=ContractKind.DEFAULT_JOB)
    small_job = replace(job, spec=replace(job.spec, disk_bytes=GB))
    test = contract(kind=ContractKind.SELFTEST, end_at=START + HOUR)

    for held in (running(job), Held(small_job)):
        wish = only(held, cordoned())
        assert wish.want is Want.YIELD
        assert "resumes by itself" in wish.reason
    assert want(Held(test), cordoned()) is Want.RUN
    assert want(running(job), machine()) is Want.RUN


def test_what_is_stopped_before_it_began_is_judged_first_and_comes_in_no_other_way() -> None:
    """A stopped contract may be started, so a stop must not count as admission."""
    parked = Held(contract(desired=Desired.STOPPED))
    unread = replace(machine(), report=None)
    in_a_window = replace(machine(), windows=(replace(NOW_WINDOW, scheduled_at=START + HOUR),))

    for closed in (cordoned(), unread, in_a_window):
        assert want(parked, closed) is Want.WAIT
    assert want(parked, machine()) is Want.STOP


def test_gpus_of_a_job_that_gives_way_to_the_cordon_go_to_who_waits_for_them() -> None:
    job = contract(50, kind=ContractKind.DEFAULT_JOB)
    stopped = running(contract(51), state=WorkloadState.STOPPED, gpu_uuids=(UUIDS[0],))

    wishes = by_id(plan([running(job), stopped], cordoned(gpu_owners={UUIDS[0]: 50}), START))

    assert wishes[50].want is Want.YIELD
    assert wishes[51].want is Want.WAIT, "until they are proven free"


def test_a_renters_stop_counts_more_than_the_cordon() -> None:
    job = contract(kind=ContractKind.DEFAULT_JOB, desired=Desired.STOPPED)

    assert want(running(job), cordoned()) is Want.STOP
    assert want(running(replace(job, desired=Desired.ENDED)), cordoned()) is Want.END


def test_the_plan_wakes_when_the_machine_opens_again() -> None:
    by_cordon = plan([Held(contract())], cordoned(reopens_at=START + HOUR), START)
    by_window = plan([], machine(windows=(NOW_WINDOW,)), START)

    assert by_cordon.next_change_at == START + HOUR
    assert by_window.next_change_at == NOW_WINDOW.end_at
    assert plan([], cordoned(reopens_at=START), START).next_change_at is None


def test_a_new_contract_across_a_window_is_refused_though_it_was_signed() -> None:
    ahead = Window(START + 5 * HOUR, START + 6 * HOUR, START - HOUR)

    wish = only(Held(contract()), machine(windows=(ahead,)))

    assert wish.want is Want.REJECT
    assert wish.problem is not None
    assert wish.problem.code == "maintenance_overlap"
    assert want(running(contract()), machine(windows=(ahead,))) is Want.RUN
    assert want(Held(contract(end_at=ahead.start_at)), machine(windows=(ahead,))) is Want.RUN


@pytest.mark.parametrize("kind", [ContractKind.INTERRUPTIBLE, ContractKind.DEFAULT_JOB, ContractKind.RESERVED])
def test_windows_are_kept_free_of_every_kind(kind: ContractKind) -> None:
    ahead = Window(START + 5 * HOUR, START + 6 * HOUR, START - HOUR)

    assert want(Held(contract(kind=kind)), machine(windows=(ahead,))) is Want.REJECT


def test_what_was_agreed_before_the_window_begins_after_it() -> None:
    agreed = contract(start_at=NOW_WINDOW.scheduled_at - HOUR)

    during: Wish = only(Held(agreed), machine(windows=(NOW_WINDOW,)))

    assert during.want is Want.WAIT
    assert during.reason == (
        "scheduling: the owner works on the machine from 2026-01-01 11:00 UTC to 2026-01-01 13:00 UTC (gpu)"
    )
    assert only(Held(agreed), machine(windows=(NOW_WINDOW,)), NOW_WINDOW.end_at).want is Want.RUN
    assert want(running(agreed), machine(windows=(NOW_WINDOW,))) is Want.RUN
    assert want(running(agreed, state=WorkloadState.STOPPED), machine(windows=(NOW_WINDOW,))) is Want.RUN


def test_a_cordon_lifts_by_its_date() -> None:
    dated = Cordon(START, START + HOUR)

    assert cordon.is_up(Cordon(START), START + 9999 * HOUR)
    assert cordon.is_up(dated, START)
    assert not cordon.is_up(dated, START + HOUR)
    assert not cordon.is_up(None, START)
    assert cordon.in_short(dated) == "draining until 2026-01-01 13:00 UTC"
    assert cordon.in_short(Cordon(START)) == "draining until the owner lifts it"


AT_REST = (WorkloadState.STOPPED, WorkloadState.EXITED, WorkloadState.FAILED)
BUSY = (
    WorkloadState.PULLING,
    WorkloadState.CREATING,
    WorkloadState.STARTING,
    WorkloadState.RUNNING,
    WorkloadState.STOPPING,
    WorkloadState.REMOVING,
    WorkloadState.UNKNOWN,
)


@pytest.mark.parametrize("state", list(WorkloadState))
def test_what_holds_a_machine(state: WorkloadState) -> None:
    """Total over the states: whoever runs or may start again without being admitted anew."""
    status = build_status(state=state)

    assert cordon.holds(contract(), status, START) is (state in (*AT_REST, *BUSY, WorkloadState.WAITING))
    assert cordon.holds(contract(end_at=START), status, START) is (state in BUSY)
    for kind in (ContractKind.SELFTEST, ContractKind.DEFAULT_JOB):
        assert cordon.holds(contract(kind=kind), status, START) is (state in BUSY)
    ending = contract(desired=Desired.ENDED)
    assert cordon.holds(ending, status, START) is (state not in (WorkloadState.ENDED, WorkloadState.REJECTED))


def test_what_was_never_admitted_holds_nothing() -> None:
    waiting = build_status(state=WorkloadState.WAITING, container_id=None)

    assert not cordon.holds(contract(), None, START)
    assert not cordon.holds(contract(), waiting, START)
