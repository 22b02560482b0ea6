"""When the machine itself changes: what went, what came, and what that does to its offers. Pure.

What is not known changes nothing: a driver that does not answer has lost no GPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kaalia.contracts import offer
from kaalia.contracts.slicing import all_known, model_of
from kaalia.errors import Problem
from kaalia.model.health import HOST, Condition, Severity
from kaalia.model.machine import Gpu, MachineReport
from kaalia.units import format_bytes

TOLD_FOR = timedelta(days=7)
"""A GPU that stays away was taken out."""
KEPT = 100
"""Changes, the newest."""
_SLACK = 0.02
"""Of memory and disk: what the kernel keeps for itself differs from boot to boot."""
_NOBODY: Mapping[str, int] = {}


class Kind(StrEnum):
    GPU_GONE = "gpu_gone"
    GPU_ADDED = "gpu_added"
    RESIZED = "hardware_changed"


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of the inventory."""

    uuid: str
    model: str
    place: str
    """Its PCI address, or its number."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the machine has. `disk_bytes` None: Docker was not there to ask."""

    cards: tuple[Card, ...]
    cpu: str
    cores: int
    memory_bytes: int
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """`scope`: the UUID of a GPU, or `host`. `until`: when it was back; None: it still is so."""

    kind: Kind
    scope: str
    at: datetime
    message: str
    consequence: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """What is known of the machine, and how it became so: the newest change last."""

    known: Inventory
    changes: tuple[Change, ...] = ()


def inventory(report: MachineReport, before: Inventory | None) -> Inventory:
    """What the report shows, and where it cannot tell, what was known."""
    disk = report.disk.total_bytes if report.disk and report.engine else None
    cards = tuple(_card(gpu) for gpu in report.gpus)
    return Inventory(
        cards=cards if all_known(report) or before is None else _widened(before.cards, cards),
        cpu=report.cpu.model or "",
        cores=report.cpu.logical_cores,
        memory_bytes=report.memory.total_bytes,
        disk_bytes=disk if disk is not None or before is None else before.disk_bytes,
    )


def advance(
    book: Book | None, seen: Inventory, at: datetime, min_gpu: int = 1, owners: Mapping[str, int] = _NOBODY
) -> Book:
    """The book with what has changed until now. `owners`: UUID -> the contract that has the GPU."""
    if book is None:
        return Book(seen)
    before = {card.uuid: card for card in book.known.cards}
    now = {card.uuid: card for card in seen.cards}
    away = {one.scope for one in book.changes if one.kind is Kind.GPU_GONE and one.until is None}
    changes = [
        replace(one, until=at) if one.kind is Kind.GPU_GONE and one.until is None and one.scope in now else one
        for one in book.changes
    ]
    ends = _sizes_changed(book.known.cards, seen.cards, min_gpu)
    changes += [_gone(card, ends, owners.get(uuid), at) for uuid, card in before.items() if uuid not in now]
    changes += [_added(card, ends, at) for uuid, card in now.items() if uuid not in before and uuid not in away]
    changes += _resized(book.known, seen, at)
    return Book(_settled(book.known, seen), tuple(changes[-KEPT:]))


def conditions(book: Book, now: datetime) -> list[Condition]:
    """What of it is told now."""
    standing = (one for one in book.changes if one.until is None and now < one.at + TOLD_FOR)
    return [_condition(one) for one in {(each.kind, each.scope): each for each in standing}.values()]


def _card(gpu: Gpu) -> Card:
    return Card(gpu.uuid, model_of(gpu), gpu.pci_address or f"number {gpu.index}")


def _widened(before: tuple[Card, ...], now: tuple[Card, ...]) -> tuple[Card, ...]:
    """Not all can be read: those that were there are not gone for that."""
    seen = {card.uuid for card in now}
    return (*now, *(card for card in before if card.uuid not in seen))


def _sizes_changed(before: Iterable[Card], now: Iterable[Card], min_gpu: int) -> dict[str, str]:
    """By model, what begins and what ends."""
    counts = [_counts(cards) for cards in (before, now)]
    told = {}
    for model in sorted(counts[0].keys() | counts[1].keys()):
        had, has = (count.get(model, 0) for count in counts)
        old, new = (set(offer.sizes(count, min_gpu)) - {0} for count in (had, has))
        words = [f"{verb} of {_listed(sizes)}" for verb, sizes in _verbs(old, new) if sizes]
        told[model] = f"{has} of {had} {model} are left" if has < had else f"{has} {model} are there"
        told[model] += f"; {', '.join(words)}" if words else "; the sizes on offer stay"
    return told


def _verbs(old: set[int], new: set[int]) -> tuple[tuple[str, set[int]], ...]:
    return ("this ends offers", old - new), ("this begins offers", new - old)


def _listed(sizes: Iterable[int]) -> str:
    return " and ".join(str(size) for size in sorted(sizes))


def _counts(cards: Iterable[Card]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for card in cards:
        counts[card.model] = counts.get(card.model, 0) + 1
    return counts


def _gone(card: Card, ends: Mapping[str, str], owner: int | None, at: datetime) -> Change:
    tenant = "" if owner is None else f"; C.{owner}, which has it, is not stopped"
    message = f"cannot see {card.model} at {card.place} any more: the driver does not show it"
    return Change(Kind.GPU_GONE, card.uuid, at, message, ends[card.model] + tenant)


def _added(card: Card, ends: Mapping[str, str], at: datetime) -> Change:
    return Change(Kind.GPU_ADDED, card.uuid, at, f"{card.model} at {card.place} is new", ends[card.model])


def _resized(before: Inventory, now: Inventory, at: datetime) -> list[Change]:
    told = []
    if (before.cpu, before.cores) != (now.cpu, now.cores):
        told.append(f"the processor was {before.cpu} with {before.cores} threads, and is {now.cpu} with {now.cores}")
    for name, old, new in (
        ("memory", before.memory_bytes, now.memory_bytes),
        ("Docker's disk", before.disk_bytes, now.disk_bytes),
    ):
        if old is not None and new is not None and _differs(old, new):
            told.append(f"{name} was {format_bytes(old)}, and is {format_bytes(new)}")
    if not told:
        return []
    consequence = "offers have their share of what is there now; what was rented keeps what it was promised"
    return [Change(Kind.RESIZED, HOST, at, "; ".join(told), consequence)]


def _differs(old: int, new: int) -> bool:
    return abs(new - old) > _SLACK * old


def _settled(before: Inventory, now: Inventory) -> Inventory:
    """What differs by little is as it was, so that many little steps are noticed in the end."""
    memory = now.memory_bytes if _differs(before.memory_bytes, now.memory_bytes) else before.memory_bytes
    old, new = before.disk_bytes, now.disk_bytes
    disk = old if old is not None and new is not None and not _differs(old, new) else new
    return replace(now, memory_bytes=memory, disk_bytes=disk)


def _condition(change: Change) -> Condition:
    if change.kind is Kind.GPU_GONE:
        problem = Problem(
            str(change.kind),
            f"{change.message}; {change.consequence}",
            remedy="see the fault of this GPU; one that was taken out on purpose is forgotten by itself",
            evidence=f"missing since {change.at:%Y-%m-%d %H:%M:%S} UTC",
        )
        clears = f"the driver shows it again, or {TOLD_FOR.days} days pass"
        return Condition(problem, Severity.WARN, clears, change.scope)
    problem = Problem(
        str(change.kind),
        f"cannot go on as before: {change.message}; {change.consequence}",
        remedy="look whether that is what you meant; prices stay as they are: vastai list machine",
        evidence=f"since {change.at:%Y-%m-%d %H:%M:%S} UTC",
    )
    return Condition(problem, Severity.WARN, f"{TOLD_FOR.days} days pass", change.scope)
