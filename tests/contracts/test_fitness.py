"""Which parts of a machine are rented out anew: the rule, and what the machine makes of it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kaalia.contracts import fitness
from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.fitness import Fault
from kaalia.contracts.local import LOCAL_FIRST
from kaalia.contracts.offer import Listing
from kaalia.contracts.placement import plan
from kaalia.contracts.wish import Held, Machine, Want, Wish
from kaalia.errors import Problem
from kaalia.model.health import HOST, Condition, OpenCondition, Severity
from kaalia.model.machine import Missing
from kaalia.model.workload import WorkloadState
from tests.support.builders import build_contract, build_gpus, build_report, build_status
from tests.support.clock import START

UUIDS = [gpu.uuid for gpu in build_gpus(8)]
LISTING = Listing(Decimal("0.40"), price_min_bid_per_hour=Decimal("0.10"))
BID, JOB, TEST = ContractKind.INTERRUPTIBLE, ContractKind.DEFAULT_JOB, ContractKind.SELFTEST


def found(
    scope: str, severity: Severity = Severity.CRITICAL, code: str = "gpu_xid_79", blocks: bool | None = None
) -> OpenCondition:
    condition = Condition(Problem(code, f"cannot count on {scope}"), severity, "it is well", scope, blocks=blocks)
    return OpenCondition(condition, "kernel", START)


def broken(*uuids: str, severity: Severity = Severity.CRITICAL) -> tuple[Fault, ...]:
    return fitness.faults(found(uuid, severity) for uuid in uuids)


def machine(gpus: int = 8, **changes: Any) -> Machine:
    return replace(Machine(build_report(gpus=gpus), LISTING, {}), **changes)


def contract(number: int = 51, gpus: int = 1, kind: ContractKind = ContractKind.ON_DEMAND, **changes: Any) -> Contract:
    made = build_contract(number, kind=kind, price_usd_per_hour=Decimal("0.40") * max(gpus, 1))
    return replace(made, spec=replace(made.spec, gpu_count=gpus), **changes)


def running(made: Contract, *uuids: str, **changes: Any) -> Held:
    return Held(made, build_status(made.contract_id, gpu_uuids=uuids, **changes), is_present=True)


def decide(on: Machine, *held: Held | Contract) -> dict[int, Wish]:
    planned = plan([one if isinstance(one, Held) else Held(one) for one in held], on, START)
    return {wish.contract.contract_id: wish for wish in planned.wishes}


@pytest.mark.parametrize(
    ("condition", "scope"),
    [
        (found(UUIDS[3]), UUIDS[3]),
        (found(UUIDS[3], Severity.UNKNOWN), UUIDS[3]),
        (found(UUIDS[3], Severity.WARN), None),
        (found(UUIDS[3], blocks=False), None),
        (found(HOST), None),
        (found(HOST, blocks=True), HOST),
        (found(HOST, Severity.UNKNOWN, blocks=True), HOST),
        (found(HOST, Severity.WARN, blocks=True), None),
        (found("sda1", blocks=True), HOST),
        (found("container other"), None),
    ],
)
def test_what_keeps_which_part_from_being_rented(condition: OpenCondition, scope: str | None) -> None:
    told = fitness.faults([condition])

    assert [one.scope for one in told] == ([] if scope is None else [scope])
    assert bool(fitness.keeps_out(condition)) is (scope is not None)


def test_of_each_part_the_worst_is_told_and_no_endless_words() -> None:
    later = START + timedelta(hours=1)
    mild = found(UUIDS[0], Severity.UNKNOWN, "gpu_unread")
    long = replace(found(HOST, blocks=True), since=later)
    long = replace(long, condition=replace(long.condition, problem=Problem("x", "cannot " + "y" * 5000)))

    told = fitness.faults([mild, replace(found(UUIDS[0]), since=later), long])

    assert [(one.scope, one.code, one.since) for one in told] == [
        (UUIDS[0], "gpu_xid_79", later),
        (HOST, "x", later),
    ]
    assert len(told[1].message) == fitness.MESSAGE_MAX_CHARS


def test_a_new_contract_gets_another_gpu() -> None:
    on = machine(2, faults=broken(UUIDS[0]))

    assert decide(on, contract())[51].gpu_uuids == (UUIDS[1],)


def test_a_contract_that_needs_more_than_are_well_is_refused_by_a_code() -> None:
    on = machine(8, faults=broken(UUIDS[3]))

    wishes = decide(on, contract(1, gpus=8), contract(2, gpus=7))

    assert wishes[1].want is Want.REJECT
    assert wishes[1].problem is not None
    assert (wishes[1].problem.code, wishes[1].problem.evidence) == ("gpus_unfit", f"{UUIDS[3]}: gpu_xid_79")
    assert wishes[2].gpu_uuids == tuple(uuid for uuid in UUIDS if uuid != UUIDS[3])


def test_the_owners_least_holds_for_what_is_left() -> None:
    on = replace(machine(4, faults=broken(UUIDS[0], UUIDS[1], UUIDS[2])), listing=replace(LISTING, min_gpu=2))

    wish = decide(on, contract(1, gpus=1))[1]

    assert wish.problem is not None
    assert wish.problem.code == "gpu_split_refused"


def test_unknown_blocks_new_rentals_of_that_gpu_only() -> None:
    on = machine(2, faults=broken(UUIDS[0], severity=Severity.UNKNOWN), gpu_owners={UUIDS[1]: 60})

    wishes = decide(on, contract(), running(contract(60), UUIDS[1]))

    assert wishes[51].want is Want.WAIT
    assert wishes[60].want is Want.RUN


@pytest.mark.parametrize("kind", [ContractKind.ON_DEMAND, ContractKind.RESERVED, BID, JOB])
def test_who_runs_on_a_broken_gpu_runs_on_and_is_told(kind: ContractKind) -> None:
    on = machine(2, faults=broken(UUIDS[0]), gpu_owners={UUIDS[0]: 51})

    wish = decide(on, running(contract(kind=kind), UUIDS[0]))[51]

    assert (wish.want, wish.gpu_uuids) == (Want.RUN, (UUIDS[0],))
    assert UUIDS[0] in wish.warning
    assert "gpu_xid_79" in wish.warning


def test_nobody_is_alarmed_by_what_is_not_known() -> None:
    on = machine(2, faults=broken(UUIDS[0], severity=Severity.UNKNOWN), gpu_owners={UUIDS[0]: 51})

    assert decide(on, running(contract(), UUIDS[0]))[51].warning == ""


def test_words_for_one_who_runs_hold_none_that_clients_take_for_the_end() -> None:
    told = fitness.faults([found(UUIDS[0], code="gpu_row_remap_failure")])
    warning = decide(machine(1, faults=told, gpu_owners={UUIDS[0]: 51}), running(contract(), UUIDS[0]))[51].warning

    assert not any(word in warning.lower() for word in ("error", "fail", "exception", "traceback", "denied"))
    assert "[gpu_unfit]" in warning


@pytest.mark.parametrize(
    ("kind", "severity", "want"),
    [
        (ContractKind.ON_DEMAND, Severity.CRITICAL, Want.RUN),
        (ContractKind.RESERVED, Severity.CRITICAL, Want.RUN),
        (BID, Severity.CRITICAL, Want.WAIT),
        (JOB, Severity.CRITICAL, Want.WAIT),
        (BID, Severity.UNKNOWN, Want.RUN),
        (TEST, Severity.CRITICAL, Want.RUN),
    ],
)
def test_what_was_stopped_on_a_gpu_that_broke(kind: ContractKind, severity: Severity, want: Want) -> None:
    """Who rents firmly has his machine back, and is told; a bid that resumes by itself would only burn money."""
    on = machine(2, faults=broken(UUIDS[0], severity=severity))
    stopped = running(contract(kind=kind), UUIDS[0], state=WorkloadState.STOPPED)

    wish = decide(on, stopped)[51]

    assert wish.want is want
    if want is Want.WAIT:
        assert "waits for its GPU to be well" in wish.reason
    else:
        assert wish.gpu_uuids == (UUIDS[0],)


def test_a_newer_generation_leaves_a_broken_gpu_that_it_does_not_hold() -> None:
    on = machine(2, faults=broken(UUIDS[0]))
    recycled = running(contract(generation=2, kind=BID), UUIDS[0], state=WorkloadState.STOPPED)

    assert decide(on, recycled)[51].gpu_uuids == (UUIDS[1],)


def test_a_fault_of_the_host_keeps_new_ones_waiting_and_its_own_tests_not() -> None:
    """As the reconciler says it."""
    fault = fitness.faults([found(HOST, code="walls_missing", blocks=True)])[0]
    on = machine(2, closed_because=fitness.words(fault), gpu_owners={UUIDS[0]: 60})
    test = Held(contract(95, kind=TEST, end_at=START + timedelta(hours=1)), is_local=True)

    wishes = decide(on, contract(), running(contract(60), UUIDS[0]), test)

    assert wishes[51].want is Want.WAIT
    assert wishes[51].reason.endswith("[walls_missing]")
    assert wishes[60].want is wishes[95].want is Want.RUN


def test_a_test_may_have_a_broken_gpu_to_see_whether_it_still_is() -> None:
    on = machine(1, faults=broken(UUIDS[0]))

    assert decide(on, contract(95, kind=TEST, end_at=START + timedelta(hours=1)))[95].gpu_uuids == (UUIDS[0],)


def test_a_lost_gpu_is_told_to_its_tenant_unless_the_driver_tells_nothing() -> None:
    lost = replace(build_report(gpus=2), gpus=build_gpus(2)[1:])
    blind = replace(build_report(gpus=2), gpus=(), missing=(Missing("gpus", "the driver did not answer"),))
    tenant = running(contract(), UUIDS[0])
    owners = {UUIDS[0]: 51}

    told = decide(Machine(lost, LISTING, owners), tenant)[51]
    untold = decide(Machine(blind, LISTING, owners), tenant)[51]

    assert (told.want, untold.want, untold.warning) == (Want.RUN, Want.RUN, "")
    assert f"no longer shows {UUIDS[0]}" in told.warning


def mixed() -> Machine:
    """Two RTX 3090, then one RTX 5060 Ti."""
    old, new = build_gpus(3, "NVIDIA GeForce RTX 3090", 24576), build_gpus(3, "NVIDIA GeForce RTX 5060 Ti", 16311)
    return replace(machine(), report=replace(build_report(), gpus=(*old[:2], new[2])))


def test_a_contract_never_gets_gpus_of_two_models() -> None:
    old, new = "GeForce RTX 3090 24 GiB", "GeForce RTX 5060 Ti 16 GiB"

    wishes = decide(mixed(), contract(1, gpu_model=new), contract(2, gpus=2, gpu_model=old), contract(3, gpus=3))

    assert (wishes[1].gpu_uuids, wishes[2].gpu_uuids) == ((UUIDS[2],), tuple(UUIDS[:2]))
    assert wishes[3].want is not Want.RUN


def test_a_model_that_the_machine_has_not_is_refused() -> None:
    gone = contract(1, gpu_model="GeForce RTX 4090 24 GiB")
    blind = replace(mixed(), report=replace(build_report(), gpus=(), missing=(Missing("gpus", "hung"),)))

    wish = decide(mixed(), gone)[1]

    assert wish.problem is not None
    assert wish.problem.code == "gpu_model_absent"
    assert decide(blind, gone)[1].want is Want.WAIT
    assert decide(mixed(), contract(2, gpus=2, gpu_model="GeForce RTX 5060 Ti 16 GiB"))[2].want is not Want.RUN


def test_a_stopped_contract_asks_no_model_of_its_own_gpus() -> None:
    stopped = running(contract(desired=Desired.RUNNING, gpu_model="other"), UUIDS[0], state=WorkloadState.STOPPED)

    assert decide(machine(1), stopped)[51].gpu_uuids == (UUIDS[0],)


def test_the_machines_own_test_gets_a_gpu_again_that_failed_only_that_test() -> None:
    own = build_contract(LOCAL_FIRST, kind=TEST)
    failed = found(UUIDS[0], code=fitness.RETRIED)

    only = fitness.of_gpus(fitness.faults([failed]))
    both = fitness.of_gpus(fitness.faults([failed, found(UUIDS[0])]))

    assert fitness.barred(own, only) == frozenset()
    assert fitness.barred(own, both) == {UUIDS[0]}
    assert fitness.barred(contract(), only) == {UUIDS[0]}
