"""What each contract may do now, rule by rule."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.offer import Listing
from kaalia.contracts.placement import plan
from kaalia.contracts.wish import Held, Machine, Plan, Want, Wish
from kaalia.errors import Problem
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.units import GIB
from tests.support.builders import build_contract, build_gpus, build_report, build_status
from tests.support.clock import START

UUIDS = [gpu.uuid for gpu in build_gpus(8)]
LISTING = Listing(price_gpu_per_hour=Decimal("0.40"))


def machine(gpus: int = 2, owners: Mapping[str, int] | None = None, **changes: Any) -> Machine:
    return replace(Machine(build_report(gpus=gpus), LISTING, owners or {}), **changes)


def contract(contract_id: int = 51, gpus: int = 1, **changes: Any) -> Contract:
    made = build_contract(contract_id, price_usd_per_hour=Decimal("0.40") * max(gpus, 1))
    return replace(made, spec=replace(made.spec, gpu_count=gpus), **changes)


def running(made: Contract, **changes: Any) -> Held:
    return Held(made, build_status(made.contract_id, **changes), is_present=True)


def only(held: Held, on: Machine, now: Any = START) -> Wish:
    return plan([held], on, now).wishes[0]


def by_id(planned: Plan) -> dict[int, Wish]:
    return {wish.contract.contract_id: wish for wish in planned.wishes}


def test_a_new_contract_gets_free_gpus() -> None:
    wish = only(Held(contract()), machine(owners={UUIDS[0]: 7}))

    assert (wish.want, wish.gpu_uuids) == (Want.RUN, (UUIDS[1],))


def test_gpus_go_to_the_earlier_contract_and_the_later_waits() -> None:
    early = contract(60, gpus=2, start_at=START - timedelta(hours=1))
    late = contract(50, gpus=1)

    wishes = by_id(plan([Held(late), Held(early)], machine(), START))

    assert wishes[60].want is Want.RUN
    assert wishes[50].want is Want.WAIT
    assert wishes[50].reason == "scheduling: waits for 1 GPUs, 0 of 2 are free"


def test_a_machine_without_gpus_runs_one_contract_at_a_time() -> None:
    """Each of them has all of the memory."""
    bare = machine(gpus=0)
    first, second = contract(51, gpus=0), contract(52, gpus=0, start_at=START - timedelta(days=1))
    stopped = running(second, state=WorkloadState.STOPPED)

    taken = by_id(plan([running(first), stopped], bare, START))
    both_run = by_id(plan([running(first), running(second)], bare, START))
    free = by_id(
        plan([running(replace(first, desired=Desired.STOPPED), state=WorkloadState.STOPPED), stopped], bare, START)
    )
    both_new = by_id(plan([Held(first), Held(second)], bare, START))

    assert (taken[51].want, taken[52].want) == (Want.RUN, Want.WAIT)
    assert taken[52].reason == "scheduling: waits for the machine, which another contract uses"
    assert Want.STOP not in {wish.want for wish in both_run.values()}
    assert free[52].want is Want.RUN
    assert (both_new[52].want, both_new[51].want) == (Want.RUN, Want.WAIT)


def test_one_that_did_not_come_up_leaves_a_machine_without_gpus_to_the_others() -> None:
    bare = machine(gpus=0)
    failed = running(contract(51, gpus=0), state=WorkloadState.FAILED)
    waiting = running(contract(52, gpus=0), state=WorkloadState.STOPPED)
    job = running(contract(53, gpus=0, kind=ContractKind.DEFAULT_JOB), state=WorkloadState.STOPPED)

    assert by_id(plan([failed, waiting], bare, START))[52].want is Want.RUN
    assert by_id(plan([failed, job], bare, START))[53].want is Want.RUN
    assert by_id(plan([failed, waiting], bare, START))[51] == Wish(failed.contract, Want.RUN)


def test_who_holds_its_gpus_keeps_them_whatever_the_report_says() -> None:
    lost = machine(owners={UUIDS[0]: 51}, report=build_report(gpus=0))

    wish = only(running(contract()), lost)

    assert (wish.want, wish.gpu_uuids) == (Want.RUN, (UUIDS[0],))


def test_a_stopped_container_waits_for_the_very_gpus_it_was_made_with() -> None:
    stopped = running(contract(), state=WorkloadState.STOPPED, gpu_uuids=(UUIDS[0],))

    taken = only(stopped, machine(owners={UUIDS[0]: 7}))
    unseen = only(stopped, machine(report=build_report(gpus=0)))
    free = only(stopped, machine())

    assert (taken.want, taken.reason) == (Want.WAIT, f"scheduling: waits for {UUIDS[0]}, which another contract uses")
    assert unseen.want is Want.WAIT
    assert (free.want, free.gpu_uuids) == (Want.RUN, (UUIDS[0],))


def test_a_newer_generation_is_not_bound_to_old_gpus() -> None:
    stopped = running(contract(generation=2), state=WorkloadState.STOPPED, gpu_uuids=(UUIDS[0],))

    assert only(stopped, machine(owners={UUIDS[0]: 7})).gpu_uuids == (UUIDS[1],)


@pytest.mark.parametrize("state", [WorkloadState.RUNNING, WorkloadState.STOPPED, WorkloadState.FAILED])
def test_expired_means_stop_for_what_was_admitted(state: WorkloadState) -> None:
    old = running(contract(end_at=START), state=state)

    assert only(old, machine()).want is Want.STOP


def test_expired_before_it_began_is_rejected() -> None:
    wish = only(Held(contract(end_at=START)), machine())

    assert wish.want is Want.REJECT
    assert wish.problem is not None
    assert wish.problem.code == "contract_expired"


@pytest.mark.parametrize("state", [WorkloadState.RUNNING, WorkloadState.STOPPED, WorkloadState.EXITED])
def test_what_may_be_over_is_neither_stopped_nor_started_while_the_time_is_in_doubt(state: WorkloadState) -> None:
    doubt = machine(latest_at=START + timedelta(hours=2))

    assert only(running(contract(end_at=START + timedelta(hours=1)), state=state), doubt).want is Want.WAIT
    assert only(running(contract(end_at=START + timedelta(hours=3)), state=state), doubt).want is Want.RUN
    assert only(running(contract(end_at=START), state=state), doubt).want is Want.STOP


@pytest.mark.parametrize(
    ("made", "listing", "code"),
    [
        (contract(price_usd_per_hour=Decimal("0.39")), LISTING, "price_below_floor"),
        (contract(gpus=2, price_usd_per_hour=Decimal("0.40")), LISTING, "price_below_floor"),
        (contract(gpus=3), LISTING, "gpu_split_refused"),
        (contract(gpus=1), replace(LISTING, min_gpu=2), "gpu_split_refused"),
        (contract(), replace(LISTING, end_at=START + timedelta(days=9)), "end_after_listing"),
        (contract(end_at=None), replace(LISTING, end_at=START + timedelta(days=99)), "end_after_listing"),
        (contract(), None, "not_listed"),
        (contract(kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.23")), LISTING, "price_below_floor"),
    ],
)
def test_terms_below_the_owners_are_rejected_even_if_signed(made: Contract, listing: Listing | None, code: str) -> None:
    wish = only(Held(made), machine(gpus=4, listing=listing))

    assert wish.want is Want.REJECT
    assert wish.problem is not None
    assert wish.problem.code == code
    assert wish.problem.message.startswith("cannot ")


@pytest.mark.parametrize(
    "made",
    [
        contract(kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.24")),
        contract(kind=ContractKind.SELFTEST, price_usd_per_hour=Decimal(0), end_at=START + timedelta(hours=2)),
        contract(gpus=4),
        contract(gpus=2, end_at=START + timedelta(days=11, seconds=30)),
    ],
)
def test_terms_within_the_owners_are_admitted(made: Contract) -> None:
    listing = replace(LISTING, end_at=START + timedelta(days=11))

    assert only(Held(made), machine(gpus=4, listing=listing)).want is Want.RUN


def test_what_was_admitted_is_not_judged_again() -> None:
    dear = replace(LISTING, price_gpu_per_hour=Decimal(9), end_at=START + timedelta(days=1))

    assert only(running(contract()), machine(listing=dear, owners={UUIDS[0]: 51})).want is Want.RUN
    assert only(running(contract()), machine(listing=None, owners={UUIDS[0]: 51})).want is Want.RUN
    assert only(Held(contract(), None, is_present=True), machine(listing=None)).want is Want.RUN


def test_a_rejection_stays_for_its_generation() -> None:
    problem = Problem("price_below_floor", "cannot accept 0.1")
    told = Held(contract(), build_status(state=WorkloadState.REJECTED, problem=problem, container_id=None))

    assert only(told, machine()).problem == problem
    assert only(replace(told, contract=contract(generation=2)), machine()).want is Want.RUN


def test_nothing_is_admitted_while_the_machine_or_the_marketplace_is_silent() -> None:
    closed = machine(closed_because="the last word is too old")

    assert only(Held(contract()), closed).reason == "scheduling: the last word is too old"
    assert only(Held(contract()), machine(report=None)).want is Want.WAIT
    assert only(running(contract()), replace(closed, gpu_owners={UUIDS[0]: 51})).want is Want.RUN


def test_a_missing_contract_ends_after_two_revisions_and_half_an_hour() -> None:
    on = machine(owners={UUIDS[0]: 51})
    missing = replace(running(contract()), missing_since=START, missing_revisions=2)

    assert only(missing, on, START + timedelta(minutes=29)).want is Want.RUN
    assert only(missing, on, START + timedelta(minutes=30)).want is Want.END
    assert only(replace(missing, missing_revisions=1), on, START + timedelta(days=1)).want is Want.RUN
    assert plan([missing], on, START).next_change_at == START + timedelta(minutes=30)


def test_the_renters_wish_is_followed() -> None:
    on = machine(owners={UUIDS[0]: 51})

    assert only(running(contract(desired=Desired.STOPPED)), on).want is Want.STOP
    assert only(running(contract(desired=Desired.ENDED)), on).want is Want.END
    assert only(running(contract(desired=Desired.ENDED, end_at=START)), on).want is Want.END


def test_disk_is_promised_once() -> None:
    made = [contract(number, gpus=1) for number in (51, 52, 53)]
    big = [replace(one, spec=replace(one.spec, disk_bytes=400 * GIB)) for one in made]

    wishes = by_id(plan([Held(one) for one in big], machine(gpus=4), START))

    assert [wishes[number].want for number in (51, 52, 53)] == [Want.RUN, Want.RUN, Want.REJECT]
    assert wishes[53].problem is not None
    assert wishes[53].problem.code == "disk_exhausted"


def test_a_new_contract_does_not_get_disk_that_others_have_filled() -> None:
    on = machine(gpus=1)
    assert on.report is not None
    assert on.report.disk is not None
    tight = replace(on.report.disk, others_bytes=on.report.disk.total_bytes - 10 * GIB)
    full = replace(on, report=replace(on.report, disk=tight))
    made = contract(gpus=1)
    waits = build_status(state=WorkloadState.WAITING, container_id=None)

    def judge(size: int, row: WorkloadStatus | None = None) -> Want:
        asked = replace(made, spec=replace(made.spec, disk_bytes=size * GIB))
        return only(Held(asked, row), full).want

    assert (judge(10), judge(11)) == (Want.RUN, Want.REJECT)
    assert judge(11, waits) is Want.RUN, "it was admitted when there was room"


def test_the_next_change_is_the_next_end() -> None:
    first, second = START + timedelta(hours=1), START + timedelta(hours=2)
    held = [Held(contract(51, end_at=second)), Held(contract(52, end_at=first)), Held(contract(53, end_at=None))]

    assert plan(held, machine(), START).next_change_at == first
    assert plan(held, machine(), first).next_change_at == second
    assert plan(held, machine(), second).next_change_at is None


STATES = st.sampled_from(WorkloadState)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(Desired), st.booleans(), STATES, st.integers(-5, 5)),
        max_size=8,
    ),
    st.dictionaries(st.sampled_from(UUIDS[:4]), st.integers(0, 7), max_size=4),
)
def test_no_gpu_is_granted_twice_and_a_holder_keeps_his(
    agreed: list[tuple[int, Desired, bool, WorkloadState, int]], owners: dict[str, int]
) -> None:
    held = [
        Held(
            contract(number, gpus=gpus, desired=desired, end_at=START + timedelta(hours=hours)),
            build_status(number, state=state) if is_present else None,
            is_present,
        )
        for number, (gpus, desired, is_present, state, hours) in enumerate(agreed)
    ]

    planned = plan(held, machine(gpus=4, owners=owners), START)

    granted = [uuid for wish in planned.wishes for uuid in wish.gpu_uuids]
    assert len(granted) == len(set(granted))
    for wish in planned.wishes:
        assert all(owners.get(uuid, wish.contract.contract_id) == wish.contract.contract_id for uuid in wish.gpu_uuids)
    assert planned == plan(held, machine(gpus=4, owners=owners), START)


def test_a_bid_yields_to_on_demand_and_not_to_one_that_did_not_come_up() -> None:
    bid = running(contract(51, kind=ContractKind.INTERRUPTIBLE))
    one_gpu = machine(gpus=1, owners={UUIDS[0]: 51})

    yields = by_id(plan([bid, Held(contract(52))], one_gpu, START))
    failed = Held(contract(52), build_status(52, state=WorkloadState.FAILED, container_id=None, gpu_uuids=()))
    stays = by_id(plan([bid, failed], one_gpu, START))

    assert (yields[51].want, yields[52].want) == (Want.YIELD, Want.WAIT)
    assert stays[51] == Wish(bid.contract, Want.RUN, (UUIDS[0],))
