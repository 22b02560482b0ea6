"""Which parts of a machine may be rented anew, by what is wrong with it: one rule, for the machine and the marketplace.

| condition                                  | new rentals                           | what runs          |
|--------------------------------------------|---------------------------------------|--------------------|
| critical or unknown, of a GPU              | none on this GPU; others go on        | untouched, told of |
| critical or unknown, of the host, `blocks` | none                                  | untouched          |
| any other                                  | as if there were none                 | untouched          |

Self-tests of a marketplace are no rentals: they look whether what was wrong still is. Those of the machine itself prove
the rest of it, and look again at a GPU of which nothing else is known than that such a test failed on it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.local import is_local
from kaalia.errors import Problem
from kaalia.model.health import HOST, OpenCondition, Severity

MESSAGE_MAX_CHARS = 300
"""Of a fault that travels."""
RETRIED = "canary_gpu_failed"
"""The machine's own test failed on a GPU: see `canary`."""
LOST_INSIDE = "gpu_lost_in_container"
"""A container that runs may not use its GPUs any more: of one contract, told to its renter too."""
_CONTRACT = "C."
LEAVE_IT = "save your data; stopped, recycled and started it gets another GPU"
_GPU = "GPU-"
"""What the driver's UUIDs begin with."""
_ORDER = (Severity.CRITICAL, Severity.UNKNOWN)
_ALARMING = ("error", "fail", "exception", "traceback", "denied")
"""Clients that find one of these in the words of an instance take it for lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps a part of the machine from being rented anew. `scope`: `host`, or the UUID of a GPU."""

    scope: str
    code: str
    severity: Severity
    since: datetime
    message: str = ""
    is_retried: bool = False
    """Nothing is known of this GPU but that the machine's own test failed on it: that test gets it again."""


def faults(found: Iterable[OpenCondition]) -> tuple[Fault, ...]:
    """One for each part, the worst and then the oldest, of conditions of any source."""
    worst: dict[str, Fault] = {}
    for one in found:
        if (fault := _fault(one)) is None:
            continue
        known = worst.get(fault.scope, fault)
        is_retried = known.is_retried and fault.is_retried
        worst[fault.scope] = replace(min(known, fault, key=_order), is_retried=is_retried)
    return tuple(worst[scope] for scope in sorted(worst))


def of_host(found: Iterable[Fault]) -> Fault | None:
    """Why nothing at all is rented anew."""
    return next((one for one in found if one.scope == HOST), None)


def of_gpus(found: Iterable[Fault]) -> dict[str, Fault]:
    """UUID -> why this GPU is not."""
    return {one.scope: one for one in found if one.scope != HOST}


def barred(contract: Contract, unfit: Mapping[str, Fault]) -> frozenset[str]:
    """The GPUs that this contract does not get, unless it has them already."""
    if contract.kind is not ContractKind.SELFTEST:
        return frozenset(unfit)
    if is_local(contract.contract_id):
        return kept_from_tests(unfit)
    return frozenset()


def kept_from_tests(unfit: Mapping[str, Fault]) -> frozenset[str]:
    """The GPUs that the machine's own tests leave out."""
    return frozenset(uuid for uuid, fault in unfit.items() if not fault.is_retried)


def keeps_out(one: OpenCondition) -> str:
    """What it keeps from being rented anew, for the owner; "" when nothing."""
    fault = _fault(one)
    if fault is None:
        return ""
    return "nothing is rented out anew" if fault.scope == HOST else "this GPU is not rented out anew"


def words(fault: Fault) -> str:
    """Why a contract waits: for its renter, and for its owner who knows the code."""
    state = "cannot tell whether it is well" if fault.severity is Severity.UNKNOWN else "has a fault"
    return f"the machine {state} and admits nothing new until that is over [{_tame(fault.code)}]"


def gpu_words(uuid: str, fault: Fault) -> str:
    """What the renter reads whose workload runs on a GPU that is known to be broken."""
    since = f"{fault.since:%Y-%m-%d %H:%M} UTC"
    return f"{uuid} is reported as faulty since {since} [{_tame(fault.code)}]; {LEAVE_IT}"


def lost_inside(found: Iterable[OpenCondition]) -> dict[int, datetime]:
    """Contract id -> since when its container may not use its GPUs, though it runs."""
    told = (one for one in found if one.condition.problem.code == LOST_INSIDE)
    numbers = ((one.condition.scope.removeprefix(_CONTRACT), one.since) for one in told)
    return {int(number): since for number, since in numbers if number.isdecimal()}


def inside_words(contract_id: int, since: datetime) -> str:
    """What the renter reads whose GPUs are well and out of his container's reach."""
    return (
        f"programs inside cannot use its GPUs since {since:%Y-%m-%d %H:%M} UTC [{LOST_INSIDE}]: the machine took the "
        f"right away while it ran; save your data, then: vastai reboot instance {contract_id}"
    )


def too_few(count: int, total: int, unfit: Iterable[Fault]) -> Problem:
    """The GPUs that are well do not suffice for the contract, whoever has them."""
    told = sorted(unfit, key=lambda one: one.scope)
    return Problem(
        "gpus_unfit",
        f"cannot give {count} GPUs: of {total} of this model {len(told)} are not rented out until they are well",
        remedy="search again: the offers of this machine have changed",
        evidence=", ".join(f"{one.scope}: {one.code}" for one in told),
    )


def _fault(one: OpenCondition) -> Fault | None:
    condition = one.condition
    is_gpu = condition.scope.startswith(_GPU)
    blocks = is_gpu if condition.blocks is None else condition.blocks
    if not blocks or condition.severity not in _ORDER:
        return None
    problem = condition.problem
    scope = condition.scope if is_gpu else HOST
    message, is_retried = problem.message[:MESSAGE_MAX_CHARS], is_gpu and problem.code == RETRIED
    return Fault(scope, problem.code, condition.severity, one.since, message, is_retried)


def _order(fault: Fault) -> tuple[int, datetime, str]:
    return _ORDER.index(fault.severity), fault.since, fault.code


def _tame(code: str) -> str:
    """A code that may stand in the words of an instance that is well."""
    return "gpu_unfit" if any(word in code for word in _ALARMING) else code
