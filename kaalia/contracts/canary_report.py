"""What the test container says (`scripts/kit/canary.c`), held against what it was given. Pure."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from kaalia.contracts.canary import Target
from kaalia.model import reach
from kaalia.model.canary import Step, StepResult
from kaalia.model.selftest import Outcome
from kaalia.model.workload import Protocol
from kaalia.units import MIB

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
LINES_MAX = 400
"""16 GPUs take 32."""


@dataclass(frozen=True, slots=True)
class Device:
    """`problem`: errno of opening it, 0: it could be; None: that has not come back."""

    major: int
    minor: int
    problem: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """What is not there was not told (yet). `name_problem`: of getaddrinfo; `connect_problem`: errno."""

    is_done: bool
    devices: Mapping[str, Device]
    addresses: tuple[str, ...] = ()
    name_problem: int | None = None
    connect_problem: int | None = None
    written_bytes: int | None = None
    write_problem: int | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """To one container. `uuids`: its GPUs, by the number of their node; None: not known.

    `quota_bytes` 0: nothing is enforced.
    """

    gpu_count: int
    uuids: Mapping[int, str] | None
    is_simulated: bool
    quota_bytes: int
    target: Target
    address: str
    note: str = ""
    """Why it has no GPU."""


def read(text: str) -> Report:
    """Lines that are none of these are left out."""
    devices: dict[str, Device] = {}
    addresses: list[str] = []
    numbers: dict[str, int] = {}
    is_done = False
    for line in text.splitlines()[:LINES_MAX]:
        match line.split():
            case ["gpu", name, major, minor, "try"] if _are_numbers(major, minor):
                devices[name] = Device(int(major), int(minor), None)
            case ["gpu", name, major, minor, problem] if _are_numbers(major, minor, problem):
                devices[name] = Device(int(major), int(minor), int(problem))
            case ["address", _, address]:
                addresses.append(address)
            case ["name" | "connect" as what, number] if _are_numbers(number):
                numbers[what] = int(number)
            case ["wrote", size, problem] if _are_numbers(size, problem):
                numbers["wrote"], numbers["refused"] = int(size), int(problem)
            case ["done"]:
                is_done = True
    return Report(
        is_done,
        devices,
        tuple(addresses),
        numbers.get("name"),
        numbers.get("connect"),
        numbers.get("wrote"),
        numbers.get("refused"),
    )


def gpu(report: Report, given: Given) -> StepResult:
    """It sees exactly its GPUs, and may open each of them.

    Which of them failed is told where the driver says whose node is whose. To see one that it was not given is a fault
    of the machine, and so is one that hangs: nobody can tell of the others then.
    """
    if given.gpu_count == 0:
        return StepResult(Step.GPU, Outcome.SKIPPED, given.note or "no GPU was given")
    found = report.devices
    if stuck := [name for name, one in found.items() if one.problem is None]:
        return _failed(Step.GPU, f"opening /dev/{stuck[0]} does not come back")
    if not report.is_done:
        return _failed(Step.GPU, "the container has not come to its GPUs")
    if given.is_simulated and not found:
        return StepResult(Step.GPU, Outcome.SKIPPED, "the driver is simulated, without device nodes")
    names = ", ".join(f"/dev/{name}" for name in sorted(found)) or "none"
    if shut := {name: one.problem for name, one in found.items() if one.problem}:
        words = "; ".join(f"/dev/{name} cannot be opened: {_word(n)}" for name, n in shut.items())
        return StepResult(Step.GPU, Outcome.FAILED, words, _lost(found, given))
    minors = {one.minor for one in found.values()}
    if len(found) != given.gpu_count or (given.uuids is not None and minors != given.uuids.keys()):
        wanted = "" if given.uuids is None else f" ({', '.join(f'/dev/nvidia{n}' for n in sorted(given.uuids))})"
        words = f"it was given {given.gpu_count} GPUs{wanted} and sees {names}"
        return StepResult(Step.GPU, Outcome.FAILED, words, _lost(found, given))
    return StepResult(Step.GPU, Outcome.PASSED, f"opened {names}, and sees no other")


def _lost(found: Mapping[str, Device], given: Given) -> tuple[str, ...]:
    """Of those it was given, the ones that it cannot open. None named: nobody can tell, or it sees others."""
    if given.uuids is None or any(one.minor not in given.uuids for one in found.values()):
        return ()
    opened = {one.minor for one in found.values() if one.problem == 0}
    return tuple(sorted(given.uuids[minor] for minor in given.uuids.keys() - opened))


def network(report: Report, given: Given, control: str = "") -> StepResult:
    """It has its address, and reaches our own place outside. `control`: why this machine itself does not; "": it does.

    What this machine does not reach either proves nothing.
    """
    if given.address not in report.addresses:
        seen = ", ".join(report.addresses) or "none" if report.is_done or report.addresses else "nothing said"
        return _failed(Step.NETWORK, f"its address should be {given.address}; it has: {seen}")
    target, has = given.target, f"has its address {given.address}"
    if target.why_not:
        return StepResult(Step.NETWORK, Outcome.PASSED, f"{has}; outside was not tried: {target.why_not}")
    place = f"{target.address}:{target.port}"
    if control and (report.name_problem or report.connect_problem):
        return StepResult(Step.NETWORK, Outcome.PASSED, f"{has}; outside was not proven: {control}")
    if target.name and report.name_problem != 0:
        return _failed(Step.NETWORK, f"{has}, but cannot find {target.name}, which this machine finds")
    if report.connect_problem != 0:
        why = "no answer" if report.connect_problem is None else _word(report.connect_problem)
        return _failed(Step.NETWORK, f"{has}, but cannot reach {place}, which this machine reaches: {why}")
    named = f"finds {target.name}, " if target.name else ""
    return StepResult(Step.NETWORK, Outcome.PASSED, f"{has}, {named}reaches {place}")


def ports(
    answers: Mapping[Protocol, str], places: Mapping[Protocol, int], outside: reach.Outcome | None = None
) -> StepResult:
    """`answers`: what was wrong with each, "" for nothing; `places`: the host's ports.

    `outside`: what a prober sees of the TCP port, which it reached before; None: nobody could say.
    """
    words = [f"{places[one]}/{one}: {answers[one] or 'answered'}" for one in answers]
    is_good = bool(answers) and not any(answers.values())
    if outside is reach.Outcome.CONNECTED:
        words.append("the outside comes through too")
    elif outside is not None:
        words.append(f"the outside reached this port, and does not reach the container behind it: {outside}")
        is_good = False
    return StepResult(Step.PORTS, Outcome.PASSED if is_good else Outcome.FAILED, "; ".join(words) or "it has no ports")


def quota(report: Report, given: Given) -> StepResult:
    """A write past its size is refused, and one within it is not."""
    size, done, problem = given.quota_bytes, report.written_bytes, report.write_problem
    if size == 0:
        return StepResult(Step.QUOTA, Outcome.SKIPPED, "Docker's storage driver enforces no size here")
    if done is None or problem is None:
        return _failed(Step.QUOTA, "the container has not come to its disk")
    words = f"wrote {done / MIB:.0f} MiB of {size / MIB:.0f}"
    if problem == 0 or done > size:
        return _failed(Step.QUOTA, f"{words}, and was not refused")
    if problem not in FULL or done < size // 2:
        return _failed(Step.QUOTA, f"{words}, then: {_word(problem)}")
    return StepResult(Step.QUOTA, Outcome.PASSED, f"{words}, then was refused ({_word(problem)})")


def _failed(step: Step, words: str) -> StepResult:
    return StepResult(step, Outcome.FAILED, words)


def _word(number: int) -> str:
    return errno.errorcode.get(number, f"error {number}")


def _are_numbers(*texts: str) -> bool:
    return all(text.lstrip("-").isdecimal() and len(text) < 20 for text in texts)
