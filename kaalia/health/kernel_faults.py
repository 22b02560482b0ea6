"""What is wrong with the machine now by what the kernel told since the boot: pure, time is an argument."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.errors import Problem
from kaalia.health.kernel_lines import UNLISTED, Action, Catalogue
from kaalia.model.gpu_health import KnownGpu
from kaalia.model.health import HOST, Condition
from kaalia.model.kernel_log import KernelFault
from kaalia.model.machine import Gpu

_XID = "gpu_xid_"
_RECOVERY = "gpu_recovery_"
RECOVERED = _RECOVERY + "recovered"
_UNTIL_REBOOT = "the machine is booted anew"
_UNTIL_RECOVERED = "the GPU is reset and its driver says so (Xid 154), or the machine is booted anew"


@dataclass(frozen=True, slots=True)
class _Meaning:
    """`action`: its name in xid.toml; "" for lines of kernel.toml."""

    action: str
    rule: Action
    says: str


def conditions(
    faults: Iterable[KernelFault], gpus: Iterable[Gpu | KnownGpu], book: Catalogue, now: datetime
) -> list[Condition]:
    """Of one boot's faults, what is not over. Of one GPU each says which others it would be the symptom of.

    `gpus`: those that are there, and those that were: a fault is of the GPU that is, or was last, at its place.
    """
    told = list(faults)
    known = [(one, meaning) for one in told if (meaning := _meaning(one, book)) is not None]
    standing = [(one, meaning) for one, meaning in known if not _is_over(one, meaning, told, now)]
    cards = {gpu.pci_address.rpartition(".")[0]: gpu for gpu in gpus if gpu.pci_address}
    return [_condition(one, meaning, cards.get(one.subject), book) for one, meaning in standing]


def _meaning(fault: KernelFault, book: Catalogue) -> _Meaning | None:
    """None: it is history only, or the catalogue does not know it any more."""
    found = _of_gpu(fault.code, book)
    if found is None:
        found = next((_Meaning("", line.action, line.says) for line in book.lines if line.id == fault.code), None)
    return found if found is not None and found.rule.severity is not None else None


def _of_gpu(code: str, book: Catalogue) -> _Meaning | None:
    if code.startswith(_XID):
        number = int(code.removeprefix(_XID))
        action, says = book.xids.get(number, (UNLISTED, "which the catalogue of Xids does not list"))
        return _Meaning(action, book.actions[action], f"Xid {number}, {says}")
    if code.startswith(_RECOVERY) and (action := code.removeprefix(_RECOVERY)) in book.actions:
        return _Meaning(action, book.actions[action], "Xid 154, it cannot go on as it is")
    return None


def _is_over(fault: KernelFault, meaning: _Meaning, told: Iterable[KernelFault], now: datetime) -> bool:
    if meaning.rule.quiet_h is not None and now - fault.last_at >= timedelta(hours=meaning.rule.quiet_h):
        return True
    return any(_ends(other, fault) for other in told)


def _ends(other: KernelFault, fault: KernelFault) -> bool:
    """A later word of Xid 154 is the newest of its GPU: `None` ends all, another step ends the step before."""
    if other.subject != fault.subject or other.last_number <= fault.last_number or not fault.subject:
        return False
    is_newest_step = fault.code.startswith(_RECOVERY) and other.code.startswith(_RECOVERY)
    return is_newest_step or (other.code == RECOVERED and fault.code.startswith(_XID))


def _condition(fault: KernelFault, meaning: _Meaning, gpu: Gpu | KnownGpu | None, book: Catalogue) -> Condition:
    rule = meaning.rule
    assert rule.severity is not None
    is_gpu = bool(meaning.action)
    part = _gpu_words(fault.subject, gpu) if is_gpu else "this machine"
    where = f" ({fault.subject})" if fault.subject and not is_gpu else ""
    about = f"its driver reported {meaning.says}" if is_gpu else meaning.says
    problem = Problem(
        fault.code,
        f"cannot count on {part}: {about}{where}",
        remedy=_filled(rule.remedy, fault.subject, gpu),
        evidence=_evidence(fault),
    )
    hidden_by = book.greater(meaning.action) if is_gpu else rule.hidden_by
    scope = _scope(fault.subject, gpu)
    return Condition(problem, rule.severity, _clears(rule, is_gpu), scope, hidden_by=hidden_by, blocks=rule.blocks)


def _gpu_words(subject: str, gpu: Gpu | KnownGpu | None) -> str:
    return f"GPU {gpu.index} ({gpu.name}, {subject})" if gpu else f"the GPU at {subject}"


def _filled(remedy: str, subject: str, gpu: Gpu | KnownGpu | None) -> str:
    return remedy.replace("{uuid}", gpu.uuid if gpu else subject).replace("{subject}", subject)


def _evidence(fault: KernelFault) -> str:
    times = f"{fault.count} times since {fault.first_at:%Y-%m-%d %H:%M:%S} UTC, the last at {fault.last_at:%H:%M:%S}"
    return f"{times if fault.count > 1 else f'at {fault.first_at:%Y-%m-%d %H:%M:%S} UTC'}: {fault.text}"


def _clears(rule: Action, is_gpu: bool) -> str:
    if rule.quiet_h is not None:
        return f"{rule.quiet_h:g} hours pass without another, or the machine is booted anew"
    return _UNTIL_RECOVERED if is_gpu else _UNTIL_REBOOT


def _scope(subject: str, gpu: Gpu | KnownGpu | None) -> str:
    return gpu.uuid if gpu else subject or HOST


def several(faults: Iterable[KernelFault]) -> Iterator[KernelFault]:
    """The same fault of the same part as one, counted."""
    sums: dict[tuple[str, str], KernelFault] = {}
    for one in faults:
        key = (one.code, one.subject)
        before = sums.get(key)
        first_at, count = (before.first_at, before.count + one.count) if before else (one.first_at, one.count)
        sums[key] = KernelFault(*key, first_at, one.last_at, one.last_number, count, one.text)
    yield from sums.values()
