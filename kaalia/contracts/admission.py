"""Why a machine refuses a new contract, even when it is correctly signed. Nothing that runs is asked again.

| kind                               | asked for                                               |
|------------------------------------|---------------------------------------------------------|
| on-demand, reserved, interruptible | the terms that travel with it (else the listing); policy |
| default job                        | policy; one GPU and little disk at most; no volumes     |
| self-test of the marketplace       | banned images; a near end; no volumes                   |

What no listing guards could be a way around the price: so own work is small, or short, and ranks below every rental
(see `arbitration`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from kaalia.contracts import fitness, offer, policy
from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind
from kaalia.contracts.fitness import Fault
from kaalia.contracts.local import is_local
from kaalia.contracts.offer import Listing
from kaalia.contracts.policy import Policy
from kaalia.errors import Problem
from kaalia.units import GB

SELFTEST_MAX = timedelta(hours=2)
"""From its admission. The public client gives up on a self-test long before."""
JOB_DISK_MAX_BYTES = 10 * GB
"""Of a default job; the marketplace of this package gives each 2 GB."""
_SEARCH_AGAIN = "search again: the offers of this machine have changed"


@dataclass(frozen=True, slots=True)
class Group:
    """The GPUs of one model: how many there are, and what is wrong with those of them that are not well."""

    total: int
    unfit: tuple[Fault, ...] = ()

    @property
    def fit(self) -> int:
        return self.total - len(self.unfit)


@dataclass(frozen=True, slots=True)
class House:
    """What the owner says, and what there is. `listing` None: not listed. `num_gpus` None: not known yet.

    `groups`: by model; None: not all GPUs can be read, so nobody is refused for what is not seen.
    """

    listing: Listing | None
    policy: Policy
    num_gpus: int | None
    groups: Mapping[str, Group] | None = None


def refusal(contract: Contract, house: House, now: datetime) -> Problem | None:
    """None: nothing speaks against it."""
    found = _nonsense(contract) or policy.refusal(house.policy, contract, now)
    if found is not None:
        return found
    if contract.kind in OWN_KINDS:
        return _own_work(contract, now)
    if house.num_gpus is None:
        return None
    terms = contract.terms or house.listing
    if terms is None:
        return Problem("not_listed", "cannot accept the contract: the owner does not offer this machine")
    return below_floor(contract, terms) or _outside(contract, terms, house)


def below_floor(contract: Contract, terms: Listing) -> Problem | None:
    floor = price_floor(contract, terms)
    if contract.price_usd_per_hour >= floor:
        return None
    return Problem(
        "price_below_floor",
        f"cannot accept {contract.price_usd_per_hour} USD per hour: the owner asks for at least {floor}",
        remedy="search again: the price of this machine has changed",
    )


def price_floor(contract: Contract, terms: Listing) -> Decimal:
    """For the whole contract. A machine without GPUs counts as one; reserved contracts may have the discount."""
    units = max(contract.spec.gpu_count, 1)
    if contract.kind is ContractKind.INTERRUPTIBLE:
        return offer.bid_floor(terms) * units
    asked = terms.price_gpu_per_hour * units
    return asked * (1 - terms.credit_discount_max) if contract.kind is ContractKind.RESERVED else asked


def ends_too_late(contract: Contract, terms: Listing) -> bool:
    """Later than the owner agreed to."""
    return policy.is_after(contract.end_at, terms.end_at)


def too_long_a_test(contract: Contract, now: datetime) -> Problem | None:
    """The machine's own may burn as long as its owner says: no marketplace can make one."""
    if is_local(contract.contract_id) or not policy.is_after(contract.end_at, now + SELFTEST_MAX):
        return None
    message = f"cannot run a self-test until {contract.end_at or 'no date'}: {SELFTEST_MAX} is the most"
    return Problem("selftest_too_long", message, remedy="give it an end")


def _outside(contract: Contract, terms: Listing, house: House) -> Problem | None:
    if problem := _not_there(contract, terms, house):
        return problem
    if ends_too_late(contract, terms):
        return Problem(
            "end_after_listing",
            f"cannot accept an end at {contract.end_at or 'no date'}: the owner's offer ends at {terms.end_at}",
            remedy="rent for a shorter time",
        )
    return None


def _not_there(contract: Contract, terms: Listing, house: House) -> Problem | None:
    """So many GPUs of its model that are well, in a size that the owner rents out."""
    count, groups = contract.spec.gpu_count, _groups(contract, house)
    if not groups and house.groups and count:
        have = ", ".join(f"{one.total} {model}" for model, one in house.groups.items())
        message = f"cannot give {count} GPUs of {contract.gpu_model}: the machine has {have}"
        return Problem("gpu_model_absent", message, remedy=_SEARCH_AGAIN)
    split = sorted({size for one in groups for size in offer.sizes(one.total, terms.min_gpu, one.fit)})
    # What is more than there is waits while not all GPUs can be read.
    if count not in split and (house.groups or count <= groups[0].total):
        return Problem(
            "gpu_split_refused",
            f"cannot accept {count} GPUs: the owner rents out {', '.join(map(str, split))}",
            remedy=_SEARCH_AGAIN,
        )
    if any(one.total >= count for one in groups) and not any(one.fit >= count for one in groups):
        nearest = max(groups, key=lambda one: (one.fit, one.total))
        return fitness.too_few(count, nearest.total, nearest.unfit)
    return None


def _groups(contract: Contract, house: House) -> list[Group]:
    """Those that may serve it; without a known model the machine is one."""
    if house.groups is None or not house.groups:
        return [Group(house.num_gpus or 0)]
    return [one for model, one in house.groups.items() if contract.gpu_model in (None, model)]


def _own_work(contract: Contract, now: datetime) -> Problem | None:
    """It is paid by nobody, so there is little of it: in time for a test, in size for a job."""
    if contract.spec.volumes:
        volume_id = contract.spec.volumes[0].volume_id
        message = f"cannot mount volume {volume_id} into a {contract.kind}: volumes are their renters' own"
        return Problem("own_work_volume", message, remedy="leave the volume out")
    if contract.kind is ContractKind.SELFTEST:
        return too_long_a_test(contract, now)
    if contract.spec.gpu_count > 1 or contract.spec.disk_bytes > JOB_DISK_MAX_BYTES:
        asked = f"{contract.spec.gpu_count} GPUs and {contract.spec.disk_bytes} bytes of disk"
        message = f"cannot give {asked} to a default job: one GPU and {JOB_DISK_MAX_BYTES} bytes are the most"
        return Problem("default_job_too_large", message, remedy="set the default job anew: there is one for each GPU")
    return None


def _nonsense(contract: Contract) -> Problem | None:
    """Sums of what was promised must never shrink by a promise."""
    for name, amount in (("gpu_count", contract.spec.gpu_count), ("disk_bytes", contract.spec.disk_bytes)):
        if amount < 0:
            return Problem("spec_invalid", f"cannot accept {name} {amount}: it is less than nothing")
    return None
