"""Books against reality: what exists holds its claims, what is gone holds none, what is unknown is quarantined."""

from collections.abc import Collection, Iterable
from datetime import datetime

from kaalia.contracts.lease import LeaseTime
from kaalia.model.health import Condition, Severity
from kaalia.reconciler.ledger import Books, claims_of
from kaalia.reconciler.quantities import of_contract
from kaalia.runtime.base import ALIVE, Observed, SetApart
from kaalia.store.amounts import Amount, OwnerKind
from kaalia.store.claims import Claim
from kaalia.store.enrolment import AcceptedSnapshot


def unclaimed(books: Books, present: Iterable[Observed]) -> tuple[list[Claim], list[Amount], list[str]]:
    """Claims and amounts that the containers prove and the books lack; and sentences about what two of them use."""
    owners = {(claim.kind, claim.key): claim.contract_id for claim in books.claims}
    counted = {(amount.kind, amount.owner_id) for amount in books.amounts if amount.owner is OwnerKind.CONTRACT}
    agreed = {stored.contract.contract_id: stored.contract for stored in books.contracts}
    missing, sizes, conflicts = [], [], []
    for observed in present:
        is_alive = observed.state in ALIVE
        for claim in claims_of(observed, holds_gpus=is_alive):
            owner = owners.get((claim.kind, claim.key))
            if owner is None:
                owners[claim.kind, claim.key] = claim.contract_id
                missing.append(claim)
            elif owner != claim.contract_id:
                conflicts.append(f"{claim.kind} {claim.key} is used by C.{claim.contract_id} and by C.{owner}")
        if contract := agreed.get(observed.contract_id):  # without one nobody knows how much was promised
            amounts = of_contract(contract, observed.generation, books.report, may_run=is_alive)
            sizes += [one for one in amounts if (one.kind, one.owner_id) not in counted]
    return missing, sizes, conflicts


def forgotten(books: Books, kept: Collection[int]) -> set[int]:
    """Ids that only the books still know: neither agreed, nor present, nor in hand (`kept`)."""
    agreed = {stored.contract.contract_id for stored in books.contracts}
    claimed = {claim.contract_id for claim in books.claims}
    claimed |= {amount.owner_id for amount in books.amounts if amount.owner is OwnerKind.CONTRACT}
    intended = {intent.contract_id for intent in books.intents}
    return (set(books.workloads) | claimed | intended) - agreed - set(kept)


def hidden(books: Books, apart: Iterable[SetApart]) -> set[int]:
    """Contracts whose container may be one of those that cannot be read: by name, by label, or as the books have it."""
    found = tuple(apart)
    ids = {one.container_id for one in found}
    recorded = {number for number, row in books.workloads.items() if row.container_id in ids}
    return recorded.union(*(one.contract_ids for one in found))


def conditions_of(apart: Iterable[SetApart]) -> tuple[Condition, ...]:
    """What the owner is told of them."""
    return tuple(
        Condition(
            problem=one.problem,
            severity=Severity.CRITICAL,
            clears_when="the container can be read again, or is gone",
            scope=f"container {one.name}",
        )
        for one in apart
    )


def closed_because(books: Books, time: LeaseTime) -> str | None:
    """Why nothing new is admitted; None: admission is open."""
    if books.snapshot is None:
        return "the marketplace has not confirmed it yet"
    if not time.is_certain:
        return "the time of the machine is not confirmed yet"
    is_old = time.latest_at > books.snapshot.not_after
    return "the marketplace's last word is too old to admit anything new" if is_old else None


class Orphans:
    """Containers of ours without a contract: since when, and how many newer words of the marketplace left them out.

    In memory: after a restart the wait begins anew.
    """

    def __init__(self) -> None:
        self._first_seen: dict[int, tuple[datetime, AcceptedSnapshot | None]] = {}

    def missing(self, observed: Observed, word: AcceptedSnapshot | None, now: datetime) -> tuple[datetime, int]:
        """(since, revisions) of one orphan. `word`: the newest accepted snapshot. A new epoch counts from its start."""
        since, first = self._first_seen.get(observed.contract_id, (now, None))
        if first is None or word is None or first.epoch != word.epoch:
            self._first_seen[observed.contract_id] = (now, word)
            return now, 0
        return since, word.revision - first.revision

    def keep_only(self, contract_ids: Collection[int]) -> None:
        for contract_id in set(self._first_seen) - set(contract_ids):
            del self._first_seen[contract_id]
