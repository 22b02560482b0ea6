"""What a newer word may change of an agreed contract, and what stays: above all, no way around the owner's price."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import admission, arbitration
from kaalia.contracts.admission import House
from kaalia.contracts.amendment import amended
from kaalia.contracts.contract import Contract, ContractKind, Desired, prolonged, repriceable
from kaalia.contracts.offer import Listing
from kaalia.contracts.policy import OPEN, Policy
from kaalia.errors import Problem
from kaalia.model.workload import NotMade, VolumeMount
from tests.support.builders import build_contract
from tests.support.clock import START

DAY = timedelta(days=1)
TERMS = Listing(Decimal("0.40"), price_min_bid_per_hour=Decimal("0.10"), end_at=START + 10 * DAY)
UNLISTED = House(None, OPEN, None)


def agreed(kind: ContractKind = ContractKind.ON_DEMAND, **changes: Any) -> Contract:
    return build_contract(kind=kind, terms=TERMS, **changes)


def own(kind: ContractKind, **changes: Any) -> Contract:
    return replace(build_contract(kind=kind, price_usd_per_hour=Decimal(0)), **changes)


def codes(known: Contract, told: Contract, house: House = UNLISTED) -> list[str]:
    taken, problems = amended(known, told, house, START)
    assert all(one.message.startswith("cannot ") and one.remedy for one in problems)
    assert all(str(known.contract_id) in one.message for one in problems)
    assert (taken == told) is (not problems)
    return [one.code for one in problems]


def test_the_renters_wishes_are_always_taken() -> None:
    known = agreed(price_usd_per_hour=Decimal(0))

    for told in (
        replace(known, desired=Desired.STOPPED),
        replace(known, desired=Desired.ENDED),
        replace(known, restart_count=3),
        replace(known, end_at=START + DAY),
    ):
        assert codes(known, told) == []


def test_a_wish_is_taken_beside_what_is_refused() -> None:
    known = agreed()
    told = replace(known, desired=Desired.ENDED, kind=ContractKind.SELFTEST, price_usd_per_hour=Decimal(0))

    taken, problems = amended(known, told, UNLISTED, START)

    assert taken == replace(known, desired=Desired.ENDED)
    assert [one.code for one in problems] == ["kind_changed"]


def test_a_tombstone_is_final() -> None:
    known = agreed(desired=Desired.ENDED)

    taken, _ = amended(known, replace(known, desired=Desired.RUNNING, generation=2), UNLISTED, START)

    assert taken.desired is Desired.ENDED


@pytest.mark.parametrize("known", list(ContractKind))
@pytest.mark.parametrize("told", list(ContractKind))
def test_no_contract_gets_a_better_rank_by_another_name(known: ContractKind, told: ContractKind) -> None:
    start = agreed(known, price_usd_per_hour=Decimal("0.4"))

    taken, problems = amended(start, replace(start, kind=told), UNLISTED, START)

    assert arbitration.rank(taken.kind) is arbitration.rank(known)
    assert bool(problems) is (arbitration.rank(known) is not arbitration.rank(told))


def test_a_prepaid_contract_becomes_cheaper_within_the_owners_discount() -> None:
    known = agreed()
    reserved = replace(known, kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.24"))

    assert codes(known, reserved) == []
    assert codes(reserved, replace(reserved, price_usd_per_hour=Decimal("0.3"))) == []
    assert codes(known, replace(reserved, price_usd_per_hour=Decimal("0.23"))) == ["price_below_floor"]
    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.24"))) == ["price_below_floor"]
    assert codes(reserved, replace(reserved, kind=ContractKind.ON_DEMAND)) == []


def test_a_bid_moves_above_its_floor() -> None:
    known = agreed(ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.3"))
    policy = House(None, Policy(min_price_gpu_per_hour=Decimal("0.2")), None)

    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.1"))) == []
    assert codes(known, replace(known, price_usd_per_hour=Decimal("7"))) == []
    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.09"))) == ["price_below_floor"]
    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.19")), policy) == ["price_below_policy"]


def test_a_stricter_policy_takes_nothing_back() -> None:
    known = agreed(ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.3"), end_at=START + 5 * DAY)
    strict = Policy(Decimal(9), START, timedelta(hours=1), ("*",), admit_default_jobs=False, admit_interruptible=False)

    for told in (known, replace(known, price_usd_per_hour=Decimal("0.4")), replace(known, desired=Desired.STOPPED)):
        assert codes(known, told, House(None, strict, None)) == []
    other = replace(known, generation=2, spec=replace(known.spec, args=("sleep", "9")))
    assert codes(known, other, House(None, strict, None)) == []


def test_other_terms_are_taken_when_they_ask_for_no_less() -> None:
    known = agreed()

    def told(**changes: Any) -> Contract:
        return replace(known, terms=replace(TERMS, **changes))

    assert codes(known, told(price_gpu_per_hour=Decimal("0.5"))) == []
    assert codes(known, told(price_gpu_per_hour=Decimal("0.3"))) == ["terms_changed"]
    assert codes(known, told(price_min_bid_per_hour=Decimal("0.01"))) == ["terms_changed"]
    assert codes(known, told(credit_discount_max=Decimal("0.9"))) == ["terms_changed"]
    cheap = replace(told(price_gpu_per_hour=Decimal(0)), price_usd_per_hour=Decimal(0))
    assert codes(known, cheap) == ["terms_changed", "price_below_floor"]
    taken, problems = amended(known, replace(known, terms=None, price_usd_per_hour=Decimal(0)), UNLISTED, START)
    assert (taken, [one.code for one in problems]) == (known, ["price_below_floor"])


def test_an_accepted_price_increase_is_taken_with_its_later_end() -> None:
    known = agreed()
    dearer = replace(TERMS, price_gpu_per_hour=Decimal("0.6"), end_at=START + 40 * DAY)

    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.6"))) == []
    assert codes(known, replace(known, price_usd_per_hour=Decimal("0.6"), end_at=dearer.end_at, terms=dearer)) == []
    untold = replace(known, price_usd_per_hour=Decimal("0.6"), end_at=START + 40 * DAY)
    assert codes(known, untold, House(dearer, OPEN, None)) == []
    assert codes(known, untold) == ["end_after_listing"]


def test_an_accepted_offer_with_a_lower_price_for_gpus_is_taken_when_the_owner_makes_it() -> None:
    """Dearer disk for cheaper GPUs: accepted now, and in force when the present end has come."""
    known = agreed()
    offered = replace(TERMS, price_gpu_per_hour=Decimal("0.3"), price_disk_per_gb_month=Decimal(9))
    accepted = prolonged(repriceable(known, offered), START + 40 * DAY)
    applied = replace(accepted, price_usd_per_hour=Decimal("0.3"))

    assert codes(known, accepted, House(offered, OPEN, None)) == []
    assert codes(accepted, applied) == []
    assert codes(known, accepted) == ["terms_changed", "end_after_listing"]
    assert codes(known, applied) == ["terms_changed", "price_below_floor", "end_after_listing"]
    assert admission.refusal(accepted, House(None, OPEN, 2), START) is None
    assert admission.refusal(applied, House(None, OPEN, 2), START) is None


def test_an_extension_needs_the_owners_word_in_its_terms_or_in_the_listing() -> None:
    known = agreed()
    later, ever = prolonged(known, START + 30 * DAY), prolonged(known, None)
    bare = replace(known, end_at=START + 30 * DAY)
    rolling = replace(TERMS, end_at=None, rolling_duration_s=30.0 * 86400)

    assert codes(known, later) == []
    assert codes(known, ever) == []
    assert codes(known, bare) == ["end_after_listing"]
    assert codes(known, bare, House(rolling, OPEN, None)) == []
    assert codes(known, bare, House(replace(rolling, rolling_duration_s=86400.0), OPEN, None)) == ["end_after_listing"]
    assert codes(known, replace(known, end_at=None), House(rolling, OPEN, None)) == ["end_after_listing"]
    assert codes(known, replace(known, end_at=None), House(replace(TERMS, end_at=None), OPEN, None)) == []
    assert codes(known, later, House(None, Policy(max_duration=20 * DAY), None)) == ["duration_above_policy"]
    assert codes(known, later, House(None, Policy(latest_end_at=START + 20 * DAY), None)) == ["end_after_policy"]
    assert amended(known, later, House(None, Policy(latest_end_at=START), None), START)[0] == known


def test_a_contract_of_an_older_marketplace_goes_by_its_words() -> None:
    known = build_contract()

    assert codes(known, replace(known, end_at=None, price_usd_per_hour=Decimal("0.1"))) == []
    assert codes(known, replace(known, terms=TERMS)) == []
    policy = Policy(min_price_gpu_per_hour=Decimal("0.2"), latest_end_at=START + 20 * DAY)
    told = replace(known, end_at=None, price_usd_per_hour=Decimal("0.1"))
    assert codes(known, told, House(None, policy, None)) == ["price_below_policy", "end_after_policy"]


def test_a_start_does_not_move() -> None:
    """Else a longest duration would never be reached."""
    known = agreed()

    taken, _ = amended(known, replace(known, start_at=START + 99 * DAY), UNLISTED, START)

    assert taken == known


def test_a_self_test_never_grows() -> None:
    known = own(ContractKind.SELFTEST, end_at=START + timedelta(hours=1))

    assert codes(known, replace(known, end_at=START + timedelta(hours=2))) == ["selftest_too_long"]
    assert codes(known, replace(known, end_at=None)) == ["selftest_too_long"]


def test_a_default_job_may_go_on_after_its_end() -> None:
    """Maintenance interrupted it, which nothing of the owner's listing bounds."""
    known = own(ContractKind.DEFAULT_JOB, end_at=START + timedelta(hours=1))

    assert codes(known, replace(known, end_at=START + timedelta(days=9))) == []
    assert codes(known, replace(known, end_at=None)) == []


def test_a_new_generation_gives_no_more_of_the_machine() -> None:
    known = agreed()
    spec = known.spec

    def told(**changes: Any) -> Contract:
        return replace(known, generation=2, spec=replace(spec, **changes))

    bans = House(None, Policy(banned_images=("debian",)), None)
    assert codes(known, told(image="debian")) == []
    assert codes(known, told(image="debian"), bans) == ["image_banned"]
    assert codes(known, told(disk_bytes=spec.disk_bytes - 1)) == []
    assert codes(known, told(disk_bytes=spec.disk_bytes + 1)) == ["spec_grown"]
    assert codes(known, told(disk_bytes=-1)) == ["spec_grown"]
    assert codes(known, told(gpu_count=8)) == ["spec_grown"]
    assert codes(known, told(gpu_count=0)) == ["spec_grown"]
    assert codes(known, told(volumes=(VolumeMount(901, "/data"),))) == []
    job = own(ContractKind.DEFAULT_JOB, end_at=None)
    mounted = replace(job, generation=2, spec=replace(job.spec, volumes=(VolumeMount(901, "/data"),)))
    assert codes(job, mounted) == ["own_work_volume"]


def test_a_generation_that_is_refused_is_told_to_its_renter_by_this_machine_alone() -> None:
    known = agreed()
    bans = House(None, Policy(banned_images=("debian",)), None)
    told = replace(known, generation=2, spec=replace(known.spec, image="debian"))

    taken, _ = amended(known, told, bans, START)
    allowed, _ = amended(taken, replace(told, generation=3, spec=known.spec), bans, START)
    forged, _ = amended(known, replace(known, refused=NotMade(9, Problem("image_banned", "cannot"))), bans, START)

    assert taken.refused is not None
    assert (taken.generation, taken.refused.generation, taken.refused.problem.code) == (1, 2, "image_banned")
    assert (allowed.generation, allowed.refused, forged.refused) == (3, None, None)


PRICES = st.sampled_from([Decimal(text) for text in ("0", "0.05", "0.1", "0.24", "0.4", "0.6")])
ENDS = st.one_of(st.none(), st.integers(0, 60).map(lambda days: START + days * DAY))
LISTINGS = st.builds(
    Listing, PRICES, price_min_bid_per_hour=st.one_of(st.none(), PRICES), end_at=ENDS, credit_discount_max=PRICES
)


@given(
    st.sampled_from(ContractKind),
    st.lists(st.tuples(st.sampled_from(ContractKind), PRICES, ENDS, st.one_of(st.none(), LISTINGS)), max_size=6),
)
def test_no_row_of_words_leads_below_the_agreed_floor_or_to_another_rank(
    kind: ContractKind, words: list[tuple[ContractKind, Decimal, Any, Listing | None]]
) -> None:
    contract = first = agreed(kind, price_usd_per_hour=Decimal("0.4"))
    for told_kind, price, end_at, terms in words:
        told = replace(contract, kind=told_kind, price_usd_per_hour=price, end_at=end_at, terms=terms)
        contract, _ = amended(contract, told, UNLISTED, START)

    assert arbitration.rank(contract.kind) is arbitration.rank(first.kind)
    # The owner's own discount is the least of firm contracts: one whose deposit is used up keeps its price.
    least = ContractKind.RESERVED if arbitration.is_firm(kind) else kind
    floor = admission.price_floor(replace(first, kind=least), TERMS)
    if arbitration.rank(kind) in (arbitration.Rank.FIRM, arbitration.Rank.BID):
        assert contract.price_usd_per_hour >= floor
