"""What the rules ask of each contract, put together from the books and from what is seen."""

from collections.abc import Callable, Collection

from kaalia.contracts import fitness
from kaalia.contracts.wish import Held
from kaalia.reconciler.ledger import Books
from kaalia.store.contracts import MARKETPLACE


def holdings(books: Books, present: Collection[int], notice: Callable[[int], str] = lambda _: "") -> list[Held]:
    """Every contract of the books. `present`: contracts whose container exists; `notice`: what renters should know."""
    return [
        Held(
            contract=stored.contract,
            workload=books.workloads.get(stored.contract.contract_id),
            is_present=stored.contract.contract_id in present,
            missing_since=stored.missing_since,
            missing_revisions=stored.missing_revisions,
            is_local=stored.origin != MARKETPLACE,
            overrun=books.overruns.get(stored.contract.contract_id),
            notice="; ".join(
                filter(None, (_lost_inside(books, stored.contract.contract_id), notice(stored.contract.contract_id)))
            ),
        )
        for stored in books.contracts
    ]


def _lost_inside(books: Books, contract_id: int) -> str:
    """A start after it was seen gave the GPUs back; the next look inside will say so too."""
    since, row = books.lost_inside.get(contract_id), books.workloads.get(contract_id)
    if since is None or (row is not None and row.started_at is not None and row.started_at > since):
        return ""
    return fitness.inside_words(contract_id, since)
