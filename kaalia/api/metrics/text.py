"""The text of a scrape, out of what was read: all of it, or what one tenant may see. Imported by the first scrape."""

from collections.abc import Collection, Iterator, Mapping
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


def of_contracts(found: Reading, usages: Usages, contract_ids: Collection[int]) -> dict[int, bytes]:
    """What each of these tenants may see, of one pass over all samples."""
    mine: dict[int, list[Sample]] = {number: [] for number in contract_ids}
    for number, sample in _by_tenant(found, usages):
        if number in mine:
            mine[number].append(sample)
    return {number: render(samples, with_process=False) for number, samples in mine.items()}


def _samples(found: Reading, usages: Usages) -> Iterator[Sample]:
    """Of everything but the daemon itself."""
    yield from machine.samples(found)
    yield from gpus.samples(found)
    yield from counters.samples(found)
    yield from contracts.samples(found, usages)
    yield from conditions.samples(found)
    yield from availability.samples(found)


def _by_tenant(found: Reading, usages: Usages) -> Iterator[tuple[int, Sample]]:
    """What concerns one contract, or a GPU that it has, with its number.

    A GPU is shown from the first reading on that was made after the contract got it: the one before may be of
    somebody else's work.
    """
    read_at = found.report.collected_at if found.report else None
    owners = {
        claim.key: claim.contract_id
        for claim, since in found.claims
        if claim.kind is ClaimKind.GPU and _is_after(read_at, since)
    }
    for sample in _samples(found, usages):
        if not sample.metric.is_tenants:
            continue
        labels = dict(zip(sample.metric.labels, sample.labels, strict=True))
        contract = labels.get("contract", "")
        number = int(contract) if contract else owners.get(labels.get("gpu", ""))
        if number is not None:
            yield number, sample


def _is_after(read_at: datetime | None, since: datetime) -> bool:
    return read_at is not None and read_at > since
