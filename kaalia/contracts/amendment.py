"""A newer word on a contract that the machine knows: what of it is taken, and what stays as it was agreed.

| what may change     | taken when                                                                             |
|---------------------|----------------------------------------------------------------------------------------|
| desired, reboots    | always: the renter's wish, the tombstone; nothing comes back after that                |
| kind                | on-demand and reserved become each other; all else would be a way to a better rank     |
| terms               | they ask for no less than the agreed ones, or than the listing now                     |
| price               | it does not fall; or not below the floor of the agreed terms and of the owner's policy |
| end                 | it does not grow; or terms or listing reach as far, and the policy; never a self-test's |
| spec (a generation) | no GPU and no byte of disk more, and no banned image in place of another               |

So a contract that was admitted by the rules of `admission` still keeps them, without being judged anew: a stricter
listing or policy takes nothing away from it.
"""

from dataclasses import replace
from datetime import datetime

from kaalia.contracts import admission, offer, policy
from kaalia.contracts.admission import House
from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind, Desired
from kaalia.contracts.offer import Listing
from kaalia.errors import Problem
from kaalia.model.workload import NotMade

_FIRM = {ContractKind.ON_DEMAND, ContractKind.RESERVED}
_STAYS = "nothing to do here: the contract goes on as it was agreed; tell the operator of the marketplace"


_Step = tuple[Contract, Problem | None]


def amended(known: Contract, told: Contract, house: House, now: datetime) -> tuple[Contract, tuple[Problem, ...]]:
    """The contract from now on, and what of `told` was not taken. Both have the same id and, in a generation, spec."""
    problems: list[Problem] = []
    # A tombstone is final: what came back after it would be a new contract that nobody judged.
    desired = Desired.ENDED if known.desired is Desired.ENDED else told.desired
    # A model that was agreed stays: another one might be worth more than the price.
    model = known.gpu_model or told.gpu_model
    taken = replace(told, start_at=known.start_at, desired=desired, refused=None, gpu_model=model)
    for step in (_generation, _kind, _terms, _price, _end):
        taken, problem = step(known, taken, house, now)
        if problem is not None:
            problems.append(problem)
    return taken, tuple(problems)


def _generation(known: Contract, told: Contract, house: House, _now: datetime) -> _Step:
    if told.generation == known.generation:
        return told, None
    old, new = known.spec, told.spec
    problem = None
    if new.gpu_count != old.gpu_count or not 0 <= new.disk_bytes <= old.disk_bytes:
        asked = f"have {new.gpu_count} GPUs and {new.disk_bytes} bytes of disk in generation {told.generation}"
        problem = _refused("spec_grown", known, asked, f"{old.gpu_count} and {old.disk_bytes} were agreed")
    elif known.kind in OWN_KINDS and new.volumes:
        problem = _refused("own_work_volume", known, "mount volumes", f"it is a {known.kind}")
    elif new.image != old.image:
        problem = _named(policy.image_refusal(house.policy, told), known)
    if problem is None:
        return told, None
    return replace(told, generation=known.generation, spec=old, refused=NotMade(told.generation, problem)), problem


def _kind(known: Contract, told: Contract, _house: House, _now: datetime) -> _Step:
    if told.kind is known.kind or {told.kind, known.kind} <= _FIRM:
        return told, None
    kept = replace(told, kind=known.kind, price_usd_per_hour=known.price_usd_per_hour)
    return kept, _refused("kind_changed", known, f"become {told.kind}", f"it was agreed as {known.kind}")


def _terms(known: Contract, told: Contract, house: House, _now: datetime) -> _Step:
    if known.terms is None or told.terms == known.terms:
        return told, None
    if told.terms is None:
        return replace(told, terms=known.terms), None
    allowed = known.terms if house.listing is None else offer.lowest(known.terms, house.listing)
    if not _asks_less(told.terms, allowed):
        return told, None
    kept = replace(told, terms=known.terms)
    return kept, _refused("terms_changed", known, "take other terms", "they ask for less than the agreed ones")


def _asks_less(new: Listing, old: Listing) -> bool:
    return (
        new.price_gpu_per_hour < old.price_gpu_per_hour
        or offer.bid_floor(new) < offer.bid_floor(old)
        or new.credit_discount_max > old.credit_discount_max
    )


def _price(known: Contract, told: Contract, house: House, _now: datetime) -> _Step:
    if told.kind in OWN_KINDS or told.price_usd_per_hour >= known.price_usd_per_hour:
        return told, None
    problem = policy.price_refusal(house.policy, told)
    if problem is None and told.terms is not None:
        problem = admission.below_floor(told, told.terms)
    if problem is None:
        return told, None
    return replace(told, price_usd_per_hour=known.price_usd_per_hour), _named(problem, known)


def _end(known: Contract, told: Contract, house: House, now: datetime) -> _Step:
    if known.end_at is None or (told.end_at is not None and told.end_at <= known.end_at):
        return told, None
    if told.kind is ContractKind.SELFTEST:
        problem: Problem | None = _refused("selftest_too_long", known, f"last until {told.end_at}", "it is a test")
    elif told.kind in OWN_KINDS:
        problem = None
    else:
        problem = _named(policy.end_refusal(house.policy, told, now), known) or _beyond(told, house.listing, now)
    return (told, None) if problem is None else (replace(told, end_at=known.end_at, terms=known.terms), problem)


def _beyond(told: Contract, listing: Listing | None, now: datetime) -> Problem | None:
    """An extension: the owner has agreed to it in the contract's own terms, or by what he offers now."""
    if told.terms is None or not admission.ends_too_late(told, told.terms):
        return None
    if listing is not None and _reaches(listing, told.end_at, now):
        return None
    until = f"last until {told.end_at or 'no date'}"
    return _refused("end_after_listing", told, until, f"the owner agreed to {told.terms.end_at}")


def _reaches(listing: Listing, end_at: datetime | None, now: datetime) -> bool:
    if listing.rolling_duration_s is None:
        return not policy.is_after(end_at, listing.end_at)
    since_at = listing.rolled_at or now
    return end_at is not None and (end_at - since_at).total_seconds() <= listing.rolling_duration_s


def _refused(code: str, contract: Contract, change: str, why: str) -> Problem:
    return Problem(code, f"cannot let contract {contract.contract_id} {change}: {why}", remedy=_STAYS)


def _named(problem: Problem | None, contract: Contract) -> Problem | None:
    """What a new contract would be refused for, told of a known one."""
    if problem is None:
        return None
    return replace(problem, message=f"cannot change contract {contract.contract_id}: {problem.message}", remedy=_STAYS)
