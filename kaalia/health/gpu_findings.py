"""What one reading of the driver says of each rule of gpu.toml: wrong, fine, or nothing. Pure.

A finding of a GPU is scoped by its UUID, also when the driver no longer tells that: then by the UUID it had before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from kaalia.errors import Problem
from kaalia.health.gpu_facts import Earlier, UnreadError, View
from kaalia.health.gpu_rules import Book, Rule
from kaalia.model.gpu_health import GpuReading, GpuSample, KnownGpu, NvmlState
from kaalia.model.health import HOST, Condition
from kaalia.model.power import PowerMark

Key = tuple[str, str]
"""Id of the rule, and scope."""
Findings = dict[Key, Condition | None]
"""None: looked at, and fine. Absent: this reading cannot tell."""

_OF_DRIVER = (
    "gpu_driver_hung",
    "gpu_driver_missing",
    "gpu_driver_not_loaded",
    "gpu_driver_mismatch",
    "gpu_driver_failed",
    "gpu_probe_failed",
)
_UNTOLD = "gpu_version_untold"
_GIVEN_AWAY = "vfio-pci"
"""The driver that holds GPUs for virtual machines: no business of NVIDIA's."""
_VITAL = frozenset({"handle", "uuid", "name", "vram_mb"})
"""Every GPU has these: one that does not tell them is in no report, and no other word for that is needed."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was before this reading, by GPU: the reading before, and the reasons for its clock, the oldest first."""

    earlier: Mapping[str, Earlier]
    reasons: Mapping[str, Sequence[int]]
    set_here: Mapping[str, PowerMark] = field(default_factory=dict)
    """What the power policy of this machine holds now."""


def of_reading(reading: GpuReading, known: Iterable[KnownGpu], past: Past, book: Book) -> Findings:
    """`known`: the GPUs that were ever there, this reading's among them."""
    found = _driver(reading, book)
    if reading.state is NvmlState.HUNG or reading.state is NvmlState.FAILED:
        return found
    if found["gpu_driver_missing", HOST] is not None:
        return found
    before = {gpu.uuid: gpu for gpu in known}
    named = _named(reading, before)
    found |= _gone(reading, named, before, past, book)
    found |= _only_on_bus(reading, before, book)
    for uuid, sample in named.items():
        found |= _gpu(sample, uuid, reading, before, past, book)
    return found


def known_after(reading: GpuReading, known: Iterable[KnownGpu], book: Book) -> tuple[KnownGpu, ...]:
    """The GPUs that are or were there: what a reading that failed does not tell stays, the removed go in time."""
    before = {gpu.uuid: gpu for gpu in known}
    kept = {
        uuid: gpu
        for uuid, gpu in before.items()
        if gpu.boot_id == reading.boot_id or reading.read_at - gpu.seen_at < timedelta(hours=book.removed_h)
    }
    for sample in reading.gpus:
        if sample.uuid is not None:
            kept[sample.uuid] = _known(sample, sample.uuid, reading, before.get(sample.uuid))
    return tuple(kept.values())


def _known(sample: GpuSample, uuid: str, reading: GpuReading, before: KnownGpu | None) -> KnownGpu:
    """As before where only the time has passed, for an hour: it is not worth a write each minute."""
    links = before.nvlinks if before and before.boot_id == reading.boot_id else 0
    now = KnownGpu(
        uuid,
        sample.index,
        sample.name or (before.name if before else ""),
        sample.pci_address or (before.pci_address if before else None),
        reading.boot_id,
        reading.read_at,
        max(links, int(sample.facts.get("nvlinks_up", 0))),
    )
    is_fresh = before is not None and timedelta(0) <= now.seen_at - before.seen_at < timedelta(hours=1)
    return before if before and is_fresh and replace(now, seen_at=before.seen_at) == before else now


def _driver(reading: GpuReading, book: Book) -> Findings:
    found: Findings = dict.fromkeys((rule_id, HOST) for rule_id in (*_OF_DRIVER, "gpu_reading_old"))
    if (wrong := _driver_rule(reading, book)) is not None:
        found[wrong, HOST] = driver_words(book.rules[wrong], reading.reason)
    # A driver that died or hung over the counters has just told the rest.
    if reading.state is NvmlState.OK:
        rule = book.rules["gpu_counters_unread"]
        found[rule.id, HOST] = driver_words(rule, reading.uncounted) if reading.uncounted else None
        found[_UNTOLD, HOST] = driver_words(book.rules[_UNTOLD], untold) if (untold := _untold(reading, book)) else None
    return found


def _untold(reading: GpuReading, book: Book) -> str:
    """What the driver does not tell of itself: an older one may have no word for CUDA, but each has a version."""
    wrong = [
        f"{name}: {error}"
        for name, error in reading.errors.items()
        if error not in book.absent or name == "driver_version"
    ]
    return ", ".join(wrong)


def driver_words(rule: Rule, evidence: str) -> Condition:
    """A condition of all GPUs of the machine."""
    return _condition(rule, HOST, "the GPUs of this machine", "", evidence)


def _driver_rule(reading: GpuReading, book: Book) -> str | None:
    match reading.state:
        case NvmlState.OK:
            return None
        case NvmlState.HUNG:
            return "gpu_driver_hung"
        case NvmlState.NO_DRIVER:
            held = [gpu for gpu in reading.on_bus if gpu.driver != _GIVEN_AWAY]
            return "gpu_driver_missing" if held else None
        case NvmlState.FAILED:
            return book.driver_errors.get(reading.error, "gpu_driver_failed") if reading.error else "gpu_probe_failed"


def _named(reading: GpuReading, before: Mapping[str, KnownGpu]) -> dict[str, GpuSample]:
    """Samples by UUID. One that does not tell its own has that of the GPU that was there, if only one can be it."""
    named = {sample.uuid: sample for sample in reading.gpus if sample.uuid is not None}
    nameless = [sample for sample in reading.gpus if sample.uuid is None]
    missing = [gpu for gpu in before.values() if gpu.uuid not in named]
    for sample in nameless:
        at = [gpu for gpu in missing if gpu.index == sample.index]
        guess = at[0] if at else missing[0] if len(nameless) == len(missing) == 1 else None
        if guess is not None:
            missing.remove(guess)
            named[guess.uuid] = replace(sample, name=guess.name, pci_address=guess.pci_address)
        else:
            named[f"gpu {sample.index}"] = sample
    return named


def _gone(
    reading: GpuReading, named: Mapping[str, GpuSample], before: Mapping[str, KnownGpu], past: Past, book: Book
) -> Findings:
    """GPUs that were there and are in no sample: lost in this boot, or gone since another and perhaps removed."""
    lost, removed = book.rules["gpu_lost"], book.rules["gpu_removed"]
    on_bus = {gpu.address: gpu for gpu in reading.on_bus}
    found: Findings = {}
    for uuid, gpu in before.items():
        place = on_bus.get(gpu.pci_address or "")
        found[lost.id, uuid] = found[removed.id, uuid] = None
        if uuid in named or (place is not None and place.driver == _GIVEN_AWAY):
            continue
        rule = lost if gpu.boot_id == reading.boot_id else removed
        shown = (
            f"the PCI bus still shows it (driver: {place.driver or 'none'})"
            if place
            else "the PCI bus shows it no more"
        )
        earlier = past.earlier.get(uuid)
        seen_at = earlier.read_at if earlier else gpu.seen_at
        evidence = (
            f"seen last at {seen_at:%Y-%m-%d %H:%M:%S} UTC; {shown if gpu.pci_address else 'its place is unknown'}"
        )
        found[rule.id, uuid] = _condition(rule, uuid, _words(gpu.index, gpu.name, gpu.pci_address), uuid, evidence)
    return found


def _only_on_bus(reading: GpuReading, before: Mapping[str, KnownGpu], book: Book) -> Findings:
    """GPUs of the bus that the driver never showed. Unknown while a GPU does not tell where it is."""
    places = {sample.pci_address for sample in reading.gpus} | {gpu.pci_address for gpu in before.values()}
    if None in places:
        return {}
    rule = book.rules["gpu_not_in_driver"]
    found: Findings = {}
    for gpu in reading.on_bus:
        is_wrong = gpu.address not in places and gpu.driver != _GIVEN_AWAY
        evidence = f"bound to {gpu.driver or 'no driver'}"
        scope = gpu.address.rpartition(".")[0]  # as kernel faults name a card that has no UUID
        found[rule.id, scope] = _condition(rule, scope, f"the GPU at {gpu.address}", "", evidence) if is_wrong else None
    return found


def _gpu(
    sample: GpuSample, uuid: str, reading: GpuReading, before: Mapping[str, KnownGpu], past: Past, book: Book
) -> Findings:
    words = _words(sample.index, sample.name, sample.pci_address)
    found = _errors(sample, uuid, words, book)
    if uuid not in before or "handle" in sample.errors:
        return found
    bus = next((gpu for gpu in reading.on_bus if gpu.address == sample.pci_address), None)
    reasons = past.reasons.get(uuid, ())
    set_here = past.set_here.get(uuid)
    view = View(sample, reading.read_at, before[uuid], bus, past.earlier.get(uuid), reasons, book, set_here)
    for rule in book.rules.values():
        if rule.fact and (rule.id, uuid) not in found:
            found |= _judged(rule, view, uuid, words)
    return found


def _judged(rule: Rule, view: View, uuid: str, words: str) -> Findings:
    try:
        value = view.value(rule.fact)
    except UnreadError as unread:
        if unread.least is None or rule.above is None or not rule.is_wrong(unread.least):
            return {}
        value = unread.least
    if value is None or not rule.is_wrong(value):
        return {(rule.id, uuid): None}
    said = "more" if rule.above is not None else "less"
    evidence = f"{rule.fact} is {value:g}; {said} than {rule.limit:g} is told"
    return {(rule.id, uuid): _condition(rule, uuid, words, uuid, evidence, value)}


def _errors(sample: GpuSample, uuid: str, words: str, book: Book) -> Findings:
    """What its errors name. A call that says which fault it is leaves nothing unreadable besides."""
    by_rule: dict[str, list[str]] = {}
    for name, error in sample.errors.items():
        if error not in book.absent or name in _VITAL:
            by_rule.setdefault(book.errors.get(error, "gpu_unreadable"), []).append(f"{name}: {error}")
    found: Findings = {(rule_id, uuid): None for rule_id in {*book.errors.values(), "gpu_unreadable"}}
    for rule_id, fields in by_rule.items():
        found[rule_id, uuid] = _condition(book.rules[rule_id], uuid, words, uuid, ", ".join(fields))
    # The driver can ask for a reset by a fact, too.
    return {key: one for key, one in found.items() if one is not None or not book.rules[key[0]].fact}


def _words(index: int, name: str, address: str | None) -> str:
    return f"GPU {index} ({', '.join(filter(None, (name, address)))})" if name or address else f"GPU {index}"


def _condition(rule: Rule, scope: str, part: str, uuid: str, evidence: str, value: float = 0.0) -> Condition:
    problem = Problem(
        rule.id,
        f"cannot count on {part}: {rule.says.format(value=value, limit=rule.limit)}",
        remedy=rule.remedy.replace("{uuid}", uuid or scope),
        evidence=evidence,
    )
    # What is wrong with the driver of all keeps all from being rented anew.
    blocks = rule.blocks if scope == HOST else None
    return Condition(problem, rule.severity, rule.clears, scope, rule.hidden_by, blocks=blocks)
