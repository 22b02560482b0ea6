"""New contracts against the owner's side: frozen terms, policy, and own work as a way around the price."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind, Desired
from kaalia.contracts.offer import Listing, frozen
from kaalia.contracts.placement import plan
from kaalia.contracts.policy import Policy
from kaalia.contracts.wish import Held, Machine, Want, Wish
from kaalia.model.workload import VolumeMount, WorkloadState
from kaalia.units import GB
from tests.support.builders import build_contract, build_gpus, build_report, build_status
from tests.support.clock import START

DAY = timedelta(days=1)
UUIDS = [gpu.uuid for gpu in build_gpus(8)]
LISTING = Listing(Decimal("0.40"), price_min_bid_per_hour=Decimal("0.10"))


def machine(gpus: int = 2, **changes: Any) -> Machine:
    return replace(Machine(build_report(gpus=gpus), LISTING, {}), **changes)


def contract(contract_id: int = 51, gpus: int = 1, **changes: Any) -> Contract:
    made = build_contract(contract_id, price_usd_per_hour=Decimal("0.40") * max(gpus, 1))
    made = replace(made, terms=frozen(LISTING, made.end_at))
    return replace(made, spec=replace(made.spec, gpu_count=gpus), **changes)


def job(contract_id: int = 90, gpus: int = 1, disk_bytes: int = 2 * GB, **changes: Any) -> Contract:
    """As somebody with the marketplace's key would sign it: free, and for ever."""
    made = build_contract(contract_id, kind=ContractKind.DEFAULT_JOB, price_usd_per_hour=Decimal(0), end_at=None)
    return replace(made, spec=replace(made.spec, gpu_count=gpus, disk_bytes=disk_bytes), **changes)


def selftest(contract_id: int = 95, gpus: int = 1, **changes: Any) -> Contract:
    return job(contract_id, gpus, **{"kind": ContractKind.SELFTEST, "end_at": START + timedelta(hours=1), **changes})


def running(made: Contract, **changes: Any) -> Held:
    return Held(made, build_status(made.contract_id, **changes), is_present=True)


def decide(held: Iterable[Held | Contract], on: Machine) -> dict[int, Wish]:
    planned = plan([one if isinstance(one, Held) else Held(one) for one in held], on, START)
    return {wish.contract.contract_id: wish for wish in planned.wishes}


def code(made: Contract, on: Machine) -> str | None:
    """Of the refusal; None: it runs."""
    (wish,) = decide([made], on).values()
    if wish.want is Want.RUN:
        return None
    assert wish.want is Want.REJECT
    assert wish.problem is not None
    return wish.problem.code


@pytest.mark.parametrize(
    "listing",
    [
        None,
        replace(LISTING, price_gpu_per_hour=Decimal(9), price_min_bid_per_hour=Decimal(8)),
        replace(LISTING, end_at=START + DAY),
        replace(LISTING, min_gpu=2),
        replace(LISTING, credit_discount_max=Decimal(0)),
    ],
)
@pytest.mark.parametrize(
    "made",
    [
        contract(),
        contract(kind=ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.1")),
        contract(kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.24")),
    ],
)
def test_what_was_agreed_stands_whatever_the_listing_says_now(made: Contract, listing: Listing | None) -> None:
    assert code(made, machine(listing=listing)) is None


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (contract(price_usd_per_hour=Decimal("0.39")), "price_below_floor"),
        (contract(kind=ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.09")), "price_below_floor"),
        (contract(kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.23")), "price_below_floor"),
        (contract(terms=frozen(replace(LISTING, min_gpu=2), START + 10 * DAY)), "gpu_split_refused"),
        (contract(end_at=START + 11 * DAY), "end_after_listing"),
        (contract(end_at=None), "end_after_listing"),
    ],
)
def test_a_contract_keeps_its_own_terms(made: Contract, wanted: str) -> None:
    generous = replace(LISTING, price_gpu_per_hour=Decimal(0), price_min_bid_per_hour=Decimal(0))

    assert code(made, machine(listing=generous)) == wanted


def test_without_terms_the_listing_rules_as_it_did() -> None:
    old = contract(terms=None)

    assert code(old, machine()) is None
    assert code(old, machine(listing=None)) == "not_listed"
    assert code(old, machine(listing=replace(LISTING, price_gpu_per_hour=Decimal(9)))) == "price_below_floor"


def test_the_policy_rules_over_terms_that_were_signed() -> None:
    cheap = replace(contract(price_usd_per_hour=Decimal(0)), terms=Listing(Decimal(0)))
    strict = machine(policy=Policy(min_price_gpu_per_hour=Decimal("0.3"), banned_images=("busybox",)))

    assert code(cheap, machine()) is None
    assert code(cheap, strict) == "image_banned"
    assert code(replace(cheap, spec=replace(cheap.spec, image="debian")), strict) == "price_below_policy"


def test_a_stricter_policy_touches_nothing_that_was_admitted() -> None:
    nothing = Policy(Decimal(99), START, timedelta(seconds=1), ("*",), False, False)
    held = [
        running(contract(51), gpu_uuids=(UUIDS[0],)),
        running(contract(52), state=WorkloadState.STOPPED, gpu_uuids=(UUIDS[1],)),
    ]

    wishes = decide([*held, contract(53)], machine(gpus=3, policy=nothing, gpu_owners={UUIDS[0]: 51}))

    assert [wishes[number].want for number in (51, 52, 53)] == [Want.RUN, Want.RUN, Want.REJECT]


@pytest.mark.parametrize("kind", sorted(ContractKind))
def test_promises_of_less_than_nothing_are_refused(kind: ContractKind) -> None:
    """They would make room in the sums of what was promised."""
    made = contract(kind=kind, end_at=START + timedelta(hours=1))

    assert code(replace(made, spec=replace(made.spec, disk_bytes=-(10**15))), machine()) == "spec_invalid"
    assert code(replace(made, spec=replace(made.spec, gpu_count=-1)), machine()) == "spec_invalid"


# Own work as a way around the price


def test_a_free_default_job_for_ever_gets_idle_gpus_one_each_and_nothing_more() -> None:
    assert code(job(), machine()) is None
    assert code(job(), machine(policy=Policy(admit_default_jobs=False))) == "default_job_refused"
    assert code(job(), machine(policy=Policy(banned_images=("busybox",)))) == "image_banned"
    assert code(job(gpus=2), machine()) == "default_job_too_large"
    assert code(job(disk_bytes=11 * GB), machine()) == "default_job_too_large"
    mounts = replace(job().spec, volumes=(VolumeMount(901, "/data"),))
    assert code(replace(job(), spec=mounts), machine()) == "own_work_volume"
    small = build_report(gpus=2)
    assert small.disk is not None
    full = replace(small, disk=replace(small.disk, total_bytes=GB))
    assert code(job(), machine(report=full)) == "disk_exhausted"


def test_default_jobs_are_as_many_as_gpus_and_their_disk_is_not_promised_while_they_wait() -> None:
    many = [job(number) for number in range(90, 190)]

    wishes = decide([*many, contract(200, gpus=2)], machine())

    assert [wishes[number].want for number in (90, 91, 92, 189)] == [Want.YIELD] * 2 + [Want.WAIT] * 2
    assert wishes[189].reason.startswith("scheduling: waits for another default job")
    assert wishes[200].want is Want.RUN

    replaced: list[Held | Contract] = [running(job(90, desired=Desired.ENDED)), job(91), job(92)]
    wishes = decide(replaced, machine())
    assert [wishes[number].want for number in (90, 91, 92)] == [Want.END, Want.RUN, Want.RUN]


def test_a_default_job_yields_to_every_rental_that_wants_its_gpu() -> None:
    held = running(job(), gpu_uuids=(UUIDS[0],))
    on = machine(gpus=1, gpu_owners={UUIDS[0]: 90})
    bid = contract(kind=ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.1"))

    for rented in (contract(), bid):
        wishes = decide([held, rented], on)
        assert (wishes[90].want, wishes[51].want) == (Want.YIELD, Want.WAIT)
    assert decide([held], on)[90].want is Want.RUN


def test_a_self_test_of_the_marketplace_ends_soon() -> None:
    assert code(selftest(), machine()) is None
    assert code(selftest(end_at=None), machine()) == "selftest_too_long"
    assert code(selftest(end_at=START + timedelta(hours=3)), machine()) == "selftest_too_long"
    late = selftest(start_at=START + 99 * DAY, end_at=START + 99 * DAY + timedelta(hours=1))
    assert code(late, machine()) == "selftest_too_long"
    mounts = replace(selftest().spec, volumes=(VolumeMount(901, "/data"),))
    assert code(replace(selftest(), spec=mounts), machine()) == "own_work_volume"


def test_the_machines_own_work_asks_nobody() -> None:
    local = Held(selftest(end_at=None), is_local=True)
    strict = machine(policy=Policy(banned_images=("*",)), closed_because="the last word is too old")

    assert decide([local], strict)[95].want is Want.RUN
    assert decide([Held(job())], machine(closed_because="x"))[90].reason == "scheduling: x"
    assert decide([Held(job(), missing_since=START)], machine())[90].want is Want.WAIT


@pytest.mark.parametrize("own", [job(gpus=0), selftest(gpus=0)])
def test_own_work_without_gpus_runs_while_nobody_rents_anything(own: Contract) -> None:
    """It has all of the memory, so it must not stand beside a tenant: with GPUs in the machine, or without."""
    number = own.contract_id
    held, rented = running(own, gpu_uuids=()), contract(gpus=1)
    stopped = running(contract(gpus=1, desired=Desired.STOPPED), state=WorkloadState.STOPPED)

    assert decide([own], machine())[number].want is Want.RUN
    assert decide([own, rented], machine())[number].want is Want.YIELD
    wishes = decide([held, rented], machine())
    assert (wishes[number].want, wishes[51].want) == (Want.YIELD, Want.RUN)
    assert decide([held, stopped], machine())[number].want is Want.RUN

    bare, tenant = machine(gpus=0), contract(gpus=0)
    wishes = decide([held, tenant], bare)
    assert (wishes[number].want, wishes[51].want) == (Want.YIELD, Want.WAIT)
    gone = running(own, state=WorkloadState.STOPPED, gpu_uuids=())
    wishes = decide([gone, tenant], bare)
    assert (wishes[number].want, wishes[51].want) == (Want.YIELD, Want.RUN)
    exited = running(own, state=WorkloadState.EXITED, gpu_uuids=())
    assert decide([exited, tenant], bare)[51].want is Want.RUN


def test_own_work_without_gpus_runs_one_at_a_time_and_a_job_before_a_test() -> None:
    bare = machine(gpus=0)

    both_new = decide([selftest(gpus=0), job(gpus=0)], bare)
    test_runs = decide([running(selftest(gpus=0), gpu_uuids=()), job(gpus=0)], bare)

    assert (both_new[90].want, both_new[95].want) == (Want.RUN, Want.YIELD)
    assert (test_runs[90].want, test_runs[95].want) == (Want.WAIT, Want.YIELD)


def test_a_tenant_that_runs_is_never_stopped_or_held_up_by_own_work() -> None:
    bare = machine(gpus=0)
    tenant = running(contract(gpus=0), gpu_uuids=())

    wishes = decide([tenant, running(job(gpus=0), gpu_uuids=()), selftest(gpus=0)], bare)

    assert wishes[51].want is Want.RUN
    assert {wishes[number].want for number in (90, 95)} == {Want.YIELD}


def test_own_kinds_are_the_two() -> None:
    assert {ContractKind.DEFAULT_JOB, ContractKind.SELFTEST} == OWN_KINDS
