"""Who gets the GPUs: the table, and what holds for every set of contracts."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.arbitration import BID_STEP, Claimant, Rank, Verdict, arbitrate, bid_per_gpu, bid_to_win, rank
from kaalia.contracts.contract import Contract, ContractKind
from tests.support.builders import build_contract, build_gpus
from tests.support.clock import START

GPUS = build_gpus(4)
UUIDS = [gpu.uuid for gpu in GPUS]
BID, FIRM, JOB = ContractKind.INTERRUPTIBLE, ContractKind.ON_DEMAND, ContractKind.DEFAULT_JOB


def contract(number: int, kind: ContractKind = FIRM, gpus: int = 1, price: str = "0.4", minute: int = 0) -> Contract:
    made = build_contract(number, price_usd_per_hour=Decimal(price), kind=kind)
    return replace(made, spec=replace(made.spec, gpu_count=gpus), start_at=START + timedelta(minutes=minute))


def judge(*contracts: Contract, gpus: int = 1, owners: dict[str, int] | None = None) -> dict[int, Verdict]:
    return arbitrate([Claimant(one) for one in contracts], GPUS[:gpus], owners or {})


def test_the_higher_bid_per_gpu_runs() -> None:
    verdicts = judge(contract(1, BID, price="0.2"), contract(2, BID, price="0.3"), owners={UUIDS[0]: 1})

    assert verdicts[2] == Verdict((UUIDS[0],), (UUIDS[0],), reason=verdicts[2].reason)
    assert (verdicts[1].gpu_uuids, verdicts[1].beaten_by) == (None, Rank.BID)


def test_bids_are_compared_per_gpu() -> None:
    verdicts = judge(contract(1, BID, gpus=2, price="0.5"), contract(2, BID, price="0.3"), gpus=2)

    assert verdicts[2].runs
    assert not verdicts[1].runs


def test_of_equal_bids_the_earlier_runs() -> None:
    verdicts = judge(contract(1, BID, minute=2), contract(2, BID, minute=1), owners={UUIDS[0]: 1})

    assert verdicts[1].beaten_by is Rank.BID


def test_on_demand_beats_any_bid_and_nobody_beats_on_demand() -> None:
    bid, firm, late = contract(1, BID, price="99"), contract(2, minute=5), contract(3, minute=1)
    verdicts = judge(bid, firm, late, owners={UUIDS[0]: 2})

    assert verdicts[2].runs
    assert verdicts[1].beaten_by is verdicts[3].beaten_by is Rank.FIRM


def test_the_lowest_loses_its_gpu() -> None:
    low, high, job = contract(1, BID, price="0.2"), contract(2, BID, price="0.3"), contract(3, JOB)
    owners = {UUIDS[0]: 1, UUIDS[1]: 2, UUIDS[2]: 3}
    verdicts = judge(low, high, job, contract(4), gpus=3, owners=owners)

    assert verdicts[4].pending == (UUIDS[2],)
    assert verdicts[1].runs
    assert verdicts[2].runs


def test_nothing_is_taken_from_one_that_the_arbiter_does_not_know() -> None:
    verdicts = judge(contract(1), owners={UUIDS[0]: 99})

    assert verdicts[1].gpu_uuids is None
    assert verdicts[1].beaten_by is None


def test_who_has_gpus_that_the_driver_hides_keeps_them() -> None:
    assert judge(contract(1, BID), gpus=0, owners={UUIDS[0]: 1})[1].runs


def test_a_free_gpu_is_taken_before_one_that_is_being_given_back() -> None:
    verdicts = arbitrate([Claimant(contract(1))], GPUS[:2], {UUIDS[0]: 9}, leaving={9})

    assert verdicts[1] == Verdict((UUIDS[1],))


def test_gpus_that_a_stopped_container_was_made_with_are_taken_last() -> None:
    asleep = {UUIDS[0], UUIDS[1]}

    wide = arbitrate([Claimant(contract(1))], GPUS[:3], {}, asleep=asleep)
    tight = arbitrate([Claimant(contract(1, gpus=2))], GPUS[:3], {}, asleep=asleep)
    given_back = arbitrate([Claimant(contract(1))], GPUS[:2], {UUIDS[1]: 9}, leaving={9}, asleep={UUIDS[0]})

    assert wide[1] == Verdict((UUIDS[2],))
    assert tight[1].runs
    assert given_back[1] == Verdict((UUIDS[0],)), "better than to wait for one that is in use"


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Claimant], dict[str, int]]:
    numbers = range(1, draw(st.integers(1, 7)) + 1)
    owners: dict[str, int] = {}
    claimants = []
    for number in numbers:
        kind = draw(st.sampled_from(ContractKind))
        count = draw(st.sampled_from((0, 1, 2, 4)))
        price = str(draw(st.sampled_from((1, 2, 3))) * max(count, 1))
        free = [uuid for uuid in UUIDS if uuid not in owners]
        made_with: tuple[str, ...] = ()
        match draw(st.sampled_from(("new", "stopped", "running"))):
            case "running" if 0 < count <= len(free):
                made_with = tuple(free[:count])
                owners |= dict.fromkeys(made_with, number)
            case "stopped":
                made_with = tuple(draw(st.permutations(UUIDS))[:count])
            case _:
                pass
        claimants.append(Claimant(contract(number, kind, count, price, draw(st.integers(0, 3))), made_with))
    return claimants, owners


@given(scenes())
def test_no_gpu_has_two_owners_and_everybody_gets_all_or_nothing(scene: tuple[list[Claimant], dict[str, int]]) -> None:
    claimants, owners = scene
    verdicts = arbitrate(claimants, GPUS, owners)

    given_away = Counter(uuid for verdict in verdicts.values() for uuid in verdict.gpu_uuids or ())
    assert all(times == 1 for times in given_away.values())
    for one in claimants:
        uuids = verdicts[one.contract.contract_id].gpu_uuids
        assert uuids is None or len(uuids) == one.contract.spec.gpu_count
        if uuids and one.made_with:
            assert set(uuids) == set(one.made_with)


@given(scenes())
def test_a_higher_rank_never_waits_for_a_lower(scene: tuple[list[Claimant], dict[str, int]]) -> None:
    claimants, owners = scene
    everybody = arbitrate(claimants, GPUS, owners)
    for one in claimants:
        mine = _strength(one.contract)
        above = [other for other in claimants if _strength(other.contract) <= mine]
        kept = {uuid: owner for uuid, owner in owners.items() if owner in {a.contract.contract_id for a in above}}
        alone = arbitrate(above, GPUS, kept)[one.contract.contract_id]
        assert (alone.gpu_uuids is None) == (everybody[one.contract.contract_id].gpu_uuids is None)


def _strength(one: Contract) -> tuple[Rank, Decimal]:
    own = rank(one.kind)
    return own, -bid_per_gpu(one) if own is Rank.BID else Decimal(0)


@given(scenes())
def test_planning_again_after_the_losers_stopped_changes_nothing(scene: tuple[list[Claimant], dict[str, int]]) -> None:
    claimants, owners = scene
    first = arbitrate(claimants, GPUS, owners)
    stopped = {uuid: owner for uuid, owner in owners.items() if first[owner].gpu_uuids is not None}
    second = arbitrate(claimants, GPUS, stopped)
    started = {uuid: number for number, verdict in second.items() for uuid in verdict.gpu_uuids or ()}
    third = arbitrate(claimants, GPUS, started)

    assert all(verdict.pending == () for verdict in second.values())
    winners = [{n for n, v in verdicts.items() if v.gpu_uuids is not None} for verdicts in (first, second, third)]
    assert winners[0] == winners[1] == winners[2]
    assert {n: v.gpu_uuids for n, v in second.items()} == {n: v.gpu_uuids for n, v in third.items()}


@given(
    st.lists(st.tuples(st.sampled_from((FIRM, BID, JOB)), st.sampled_from((1, 2)), st.integers(1, 4)), max_size=5),
    st.sampled_from((1, 2, 4)),
)
def test_the_bid_to_win_wins_and_a_step_less_does_not(rivals: list[tuple[ContractKind, int, int]], count: int) -> None:
    others = [contract(n, kind, gpus, str(bid * gpus)) for n, (kind, gpus, bid) in enumerate(rivals, 10)]
    floor = Decimal("0.5")
    least = bid_to_win(others, len(GPUS), count, floor)
    if least is None:
        return
    mine = contract(99, BID, count, str(least * count), minute=9)
    assert judge(*others, mine, gpus=4)[99].gpu_uuids is not None
    if least > floor:
        less = replace(mine, price_usd_per_hour=(least - 2 * BID_STEP) * count)
        beaten = [one for one in others if one.kind is BID and bid_per_gpu(one) > bid_per_gpu(less)]
        assert beaten
