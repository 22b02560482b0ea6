"""What the ledger, the engine and the driver say of each other. Pure: each difference is a condition, never an action.

Contracts with an open intent are left out: in the middle of an operation the three may differ.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kaalia.errors import Problem
from kaalia.model.gpu_use import GpuProcess, GpuUse
from kaalia.model.health import HOST, Condition, Severity
from kaalia.model.workload import Protocol, WorkloadState
from kaalia.reconciler.ledger import Books, claim_kind_of
from kaalia.reconciler.quantities import limits
from kaalia.runtime.base import ALIVE, ObservedState, Present
from kaalia.store.amounts import OwnerKind
from kaalia.store.claims import Claim, ClaimKind

NETWORK = "kaalia-"
"""A contract's network is called by it and its number."""
Thing = tuple[ClaimKind, str]

_RELOOK = "restart the daemon, which looks at everything anew; if it stays, report it with `kaalia ledger --json`"
_FITS = "the ledger and the container engine agree"


@dataclass(frozen=True, slots=True)
class View:
    """Books and engine at one moment; `busy`: contracts that something is being done to."""

    books: Books
    present: tuple[Present, ...]
    busy: frozenset[int]

    def owners(self) -> dict[Thing, int]:
        return {(claim.kind, claim.key): claim.contract_id for claim in self.books.claims}

    def quiet(self) -> list[Present]:
        return [one for one in self.present if one.contract_id not in self.busy]


def of_engine(view: View) -> list[Condition]:
    """Ledger against containers, networks and published ports."""
    return [*_idle_claims(view), *_uses(view), *_ports(view), *_overcommitted(view)]


def of_gpus(view: View, use: GpuUse) -> list[Condition]:
    """Ledger against the processes that the driver names. Free GPUs of a machine not on offer are its owner's."""
    owners = view.owners()
    contracts = {one.container_id: one.contract_id for one in view.present if one.container_id}
    users: defaultdict[tuple[str, int | None], list[GpuProcess]] = defaultdict(list)
    for process in use.processes:
        if process.is_system:
            continue
        user = next((contracts[known] for known in process.container_ids if known in contracts), None)
        users[process.gpu_uuid, user].append(process)
    found = []
    for (uuid, user), processes in users.items():
        owner = owners.get((ClaimKind.GPU, uuid))
        if (user is not None and user == owner) or {user, owner} & view.busy:
            continue
        if user is None and (owner is not None or view.books.listing is not None):
            found.append(_foreign(uuid, owner, processes))
        elif user is not None and owner is not None:
            found.append(_shared(f"GPU {uuid}", [owner, user], uuid, _words(processes)))
        elif user is not None:
            found.append(_unclaimed(f"C.{user}", uuid, [f"GPU {uuid}", _words(processes)]))
    return found


def _idle_claims(view: View) -> Iterable[Condition]:
    """What is held for a contract that has no use of it."""
    present = {one.contract_id: one for one in view.present}
    held: defaultdict[int, list[str]] = defaultdict(list)
    for claim in view.books.claims:
        if not _is_used(claim, present.get(claim.contract_id), view):
            held[claim.contract_id].append(f"{claim.kind} {claim.key}")
    for amount in view.books.amounts:
        one = present.get(amount.owner_id)
        if amount.owner is OwnerKind.CONTRACT and (one is None or one.container_id is None):
            held[amount.owner_id].append(f"{amount.amount} of {amount.kind}")
    for contract_id in sorted(set(held) - view.busy):
        name = f"C.{contract_id}"
        message = f"cannot rent out what {name} holds: it has no container that uses it"
        problem = Problem(
            "audit_claim_without_container", message, remedy=_RELOOK, evidence=", ".join(held[contract_id])
        )
        yield Condition(problem, Severity.WARN, _FITS, name)


def _is_used(claim: Claim, one: Present | None, view: View) -> bool:
    if one is None:
        return False
    if claim.kind is ClaimKind.SUBNET:
        return claim.key in one.subnets
    row = view.books.workloads.get(claim.contract_id)
    if claim.kind is ClaimKind.GPU and one.state not in ALIVE and row and row.state is WorkloadState.STOPPED:
        return False
    return one.container_id is not None


def _uses(view: View) -> Iterable[Condition]:
    """What containers and networks use, that the ledger gives to nobody or to another."""
    owners = view.owners()
    users: defaultdict[Thing, list[int]] = defaultdict(list)
    missing: defaultdict[str, list[str]] = defaultdict(list)
    agreed = {stored.contract.contract_id for stored in view.books.contracts}
    uncounted = agreed - {one.owner_id for one in view.books.amounts if one.owner is OwnerKind.CONTRACT}
    for one in view.quiet():
        name = f"C.{one.contract_id}" if one.container_id else f"{NETWORK}{one.contract_id}"
        for thing in _things(one):
            users[thing].append(one.contract_id)
            if thing not in owners:
                missing[name].append(_said(thing))
        # Of a container without a contract nobody knows how much it was promised.
        if one.container_id and one.contract_id in uncounted:
            missing[name].append("its disk")
    for thing, contract_ids in users.items():
        everyone = sorted({*contract_ids, *([owners[thing]] if thing in owners else [])})
        if len(everyone) > 1 and not view.busy.intersection(everyone):
            scope = thing[1] if thing[0] is ClaimKind.GPU else _said(thing)
            yield _shared(_said(thing), everyone, scope, "")
    for name, things in missing.items():
        yield _unclaimed(name, name, things)


def _things(one: Present) -> list[Thing]:
    things = [(ClaimKind.SUBNET, subnet) for subnet in one.subnets]
    things += [(claim_kind_of(protocol), str(port)) for port, protocol in sorted(one.promised)]
    if one.state in ALIVE:
        things += [(ClaimKind.GPU, uuid) for uuid in one.gpu_uuids]
    return things


def _ports(view: View) -> Iterable[Condition]:
    for one in view.quiet():
        if one.is_cut_off:
            yield _cut_off(f"C.{one.contract_id}")
            continue
        lost = one.promised - one.published if one.state is ObservedState.RUNNING else frozenset()
        name, ports = f"C.{one.contract_id}", _ports_said(lost)
        if lost:
            problem = Problem(
                "audit_port_taken",
                f"cannot reach {name} at {ports}: it does not lead to the container",
                remedy="see whether the container is in its network, and `iptables-save -t nat`; a reboot of the "
                "instance publishes it anew",
                evidence=f"promised {_ports_said(one.promised)}; published {_ports_said(one.published) or 'none'}",
            )
            yield Condition(problem, Severity.CRITICAL, "every promised port leads to the container", name)


def _cut_off(name: str) -> Condition:
    problem = Problem(
        "audit_network_lost",
        f"cannot reach {name}, nor can it reach anything: somebody ended the container that holds its network",
        remedy="let its renter reboot the instance, which opens the network again; leave such containers alone",
    )
    return Condition(problem, Severity.CRITICAL, "the instance runs in its network", name)


def _overcommitted(view: View) -> Iterable[Condition]:
    sums: defaultdict[str, int] = defaultdict(int)
    for amount in view.books.amounts:
        sums[amount.kind] += amount.amount
    for kind, limit in limits(view.books.report).items():
        if sums[kind] > limit:
            message = f"cannot keep all promises of {kind}: {sums[kind]} bytes are promised of {limit}"
            yield Condition(
                Problem("audit_overcommitted", message, remedy=f"see who has it: kaalia ledger {kind}"),
                Severity.WARN,
                "enough contracts or volumes have ended, or the disk has grown",
                HOST,
            )


def _foreign(uuid: str, owner: int | None, processes: list[GpuProcess]) -> Condition:
    whose = f"rented as C.{owner}" if owner is not None else "offered for rent"
    return Condition(
        Problem(
            "audit_gpu_foreign_process",
            f"cannot give GPU {uuid} to its renter alone: it is {whose}, and a process of no contract uses it",
            remedy="end that process, or take the machine off the market: vastai unlist machine ID",
            evidence=_words(processes),
        ),
        Severity.CRITICAL if owner is not None else Severity.WARN,
        "only the contract that holds the GPU uses it",
        uuid,
    )


def _shared(what: str, contract_ids: list[int], scope: str, evidence: str) -> Condition:
    names = " and ".join(f"C.{number}" for number in contract_ids)
    message = f"cannot tell whose {what} is: {names} have it"
    problem = Problem("audit_two_owners", message, remedy=_RELOOK, evidence=evidence)
    return Condition(problem, Severity.CRITICAL, "one of them has let go of it", scope)


def _unclaimed(name: str, scope: str, things: list[str]) -> Condition:
    remedy = f"docker network rm {name}" if name.startswith(NETWORK) else _RELOOK
    message = f"cannot find in the ledger what {name} uses"
    problem = Problem("audit_container_without_claim", message, remedy=remedy, evidence=", ".join(things))
    return Condition(problem, Severity.WARN, _FITS, scope)


def _said(thing: Thing) -> str:
    return f"{thing[0]} {thing[1]}"


def _ports_said(ports: Iterable[tuple[int, Protocol]]) -> str:
    return ", ".join(f"{port}/{protocol}" for port, protocol in sorted(ports))


def _words(processes: Iterable[GpuProcess]) -> str:
    return ", ".join(f"pid {one.pid} ({one.name})" for one in sorted(processes, key=lambda one: one.pid))


def key(condition: Condition) -> tuple[str, str]:
    """What names a condition of one source."""
    return condition.problem.code, condition.scope
