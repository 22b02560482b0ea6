"""What the owner of a machine admits, whatever a marketplace has signed: written on the machine, in its configuration.

Asked when a contract is new, and when a known one shall change (see `amendment`). What runs is never judged again: a
stricter policy ends nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from kaalia.contracts import bans
from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind
from kaalia.errors import ContractError, Problem

END_TOLERANCE = timedelta(seconds=60)
"""End dates pass through floats and roundings of several programs."""
_ELSEWHERE = "rent another machine"


@dataclass(frozen=True, slots=True)
class Policy:
    """None: no limit. `min_price_gpu_per_hour` in US dollars; `banned_images`: patterns of `bans`."""

    min_price_gpu_per_hour: Decimal | None = None
    latest_end_at: datetime | None = None
    max_duration: timedelta | None = None
    """From the start of a contract to its end, extensions included."""
    banned_images: tuple[str, ...] = ()
    admit_default_jobs: bool = True
    admit_interruptible: bool = True


OPEN = Policy()
"""Everything is admitted."""


def refusal(policy: Policy, contract: Contract, now: datetime) -> Problem | None:
    """Why a new contract is not wanted. The owner's own work has no price and no end that he could set here."""
    found = _kind_refusal(policy, contract) or image_refusal(policy, contract)
    if found is not None or contract.kind in OWN_KINDS:
        return found
    return price_refusal(policy, contract) or end_refusal(policy, contract, now)


def image_refusal(policy: Policy, contract: Contract) -> Problem | None:
    reference = contract.spec.image
    try:
        pattern = bans.banned_by(reference, policy.banned_images)
    except ContractError as error:
        return error.problem
    if pattern is None:
        return None
    message = f"cannot run image {reference!r}: the owner of this machine bans {pattern!r}"
    return Problem("image_banned", message, remedy="use another image, or rent another machine")


def price_refusal(policy: Policy, contract: Contract) -> Problem | None:
    if policy.min_price_gpu_per_hour is None:
        return None
    least = policy.min_price_gpu_per_hour * max(contract.spec.gpu_count, 1)
    if contract.price_usd_per_hour >= least:
        return None
    message = f"cannot accept {contract.price_usd_per_hour} USD per hour: the machine itself asks for at least {least}"
    return Problem("price_below_policy", message, remedy=_ELSEWHERE)


def end_refusal(policy: Policy, contract: Contract, now: datetime) -> Problem | None:
    end_at, latest_at, longest = contract.end_at, policy.latest_end_at, policy.max_duration
    if is_after(end_at, latest_at):
        message = f"cannot accept an end at {end_at or 'no date'}: the machine itself ends all rentals at {latest_at}"
        return Problem("end_after_policy", message, remedy=_ELSEWHERE)
    start_at = min(contract.start_at, now)
    if longest is not None and (end_at is None or end_at - start_at > longest + END_TOLERANCE):
        message = f"cannot accept an end at {end_at or 'no date'}: the machine itself is rented for {longest} at most"
        return Problem("duration_above_policy", message, remedy=_ELSEWHERE)
    return None


def is_after(end_at: datetime | None, limit_at: datetime | None) -> bool:
    """Later than the limit, by more than roundings; None: never. Nothing is later than no limit."""
    return limit_at is not None and (end_at is None or end_at - limit_at > END_TOLERANCE)


def _kind_refusal(policy: Policy, contract: Contract) -> Problem | None:
    if contract.kind is ContractKind.INTERRUPTIBLE and not policy.admit_interruptible:
        message = f"cannot accept a bid of {contract.price_usd_per_hour} USD per hour: the owner takes no bids"
        return Problem("interruptible_refused", message, remedy="rent on demand, or another machine")
    if contract.kind is ContractKind.DEFAULT_JOB and not policy.admit_default_jobs:
        message = f"cannot run {contract.spec.image!r} as a default job: the owner admits none on this machine"
        return Problem("default_job_refused", message, remedy="set policy.admit_default_jobs on the machine")
    return None
