"""Is the machine open to new contracts? What the books and the time say of it, for the rules of placement."""

from collections.abc import Collection, Mapping

from kaalia.contracts import cordon, fitness
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.lease import LeaseTime
from kaalia.contracts.policy import Policy
from kaalia.contracts.wish import Machine
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.audit import closed_because
from kaalia.reconciler.ledger import Books

_UNWRITTEN = (WorkloadState.WAITING, WorkloadState.REJECTED)


def machine(books: Books, gpu_owners: Mapping[str, int], time: LeaseTime, policy: Policy) -> Machine:
    """What the rules need to know of this machine."""
    placed, fault = _cordon(books, time), fitness.of_host(books.faults)
    closed = cordon.words(placed) if placed else closed_because(books, time)
    return Machine(
        report=books.report,
        listing=books.listing,
        gpu_owners=gpu_owners,
        closed_because=closed or (fitness.words(fault) if fault else None),
        latest_at=None if time.is_certain else time.latest_at,
        volume_bytes=books.volume_bytes,
        windows=books.windows,
        is_cordoned=placed is not None,
        reopens_at=placed.until_at if placed else None,
        policy=policy,
        faults=books.faults,
    )


def to_obey(books: Books, launching: Collection[int]) -> Cordon | None:
    """The cordon that is in force from now on, and was not before.

    Not while a launch is under way that was begun without it and does not stand in the books yet: until it does,
    nobody can see that it holds the machine.
    """
    stored = books.cordon
    if stored is None or stored.is_obeyed:
        return None
    rows = (books.workloads.get(number) for number in launching)
    return None if any(row is None or row.state in _UNWRITTEN for row in rows) else stored.cordon


def _cordon(books: Books, time: LeaseTime) -> Cordon | None:
    stored = books.cordon
    return stored.cordon if stored and cordon.is_up(stored.cordon, time.earliest_at) else None
