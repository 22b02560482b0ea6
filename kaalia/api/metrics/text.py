"""The text of a scrape, out of what was read: all of it, or what one tenant may see. Imported by the first scrape."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from kaalia.api.metrics import availability, conditions, contracts, counters, daemon, gpus, machine
from kaalia.api.metrics.exposition import render
from kaalia.api.metrics.internals import Internals
from kaalia.api.metrics.metric import Sample
from kaalia.api.metrics.reading import Reading
from kaalia.model.usage import ContainerUsage
from kaalia.store.claims import ClaimKind

Usages = Mapping[str, ContainerUsage]
"""What containers use, by their ids."""


def whole(found: Reading | None, usages: Usages, internals: Internals) -> bytes:
    """`found` None: only the daemon itself is known. Blocks for some milliseconds."""
    own = daemon.samples(internals)
    return render((*own, *_samples(found, usages)) if found else own, with_process=True)


def of_contract(found: Reading, usages: Usages, contract_id: int) -> bytes:
    return render(_for_tenant(found, usages, contract_id), with_process=False)


def _samples(found: Reading, usages: Usages) -> Iterator[Sample]:
    """Of everything but the daemon itself."""
    yield from machine.samples(found)
    yield from gpus.samples(found)
    yield from counters.samples(found)
    yield from contracts.samples(found, usages)
    yield from conditions.samples(found)
    yield from availability.samples(found)


def _for_tenant(found: Reading, usages: Usages, contract_id: int) -> Iterator[Sample]:
    """What concerns this contract alone, or a GPU that it has.

    A GPU is shown from the first reading on that was made after the contract got it: the one before may be of
    somebody else's work.
    """
    read_at = found.report.collected_at if found.report else None
    mine = {
        claim.key
        for claim, since in found.claims
        if claim.kind is ClaimKind.GPU and claim.contract_id == contract_id and _is_after(read_at, since)
    }
    for sample in _samples(found, usages):
        labels = dict(zip(sample.metric.labels, sample.labels, strict=True))
        contract, gpu = labels.get("contract", ""), labels.get("gpu", "")
        is_mine = contract == str(contract_id) if contract else gpu in mine
        if sample.metric.is_tenants and is_mine:
            yield sample


def _is_after(read_at: datetime | None, since: datetime) -> bool:
    return read_at is not None and read_at > since
