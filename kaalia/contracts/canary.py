"""When the machine proves itself, by which contracts, and what is wrong when it has not. Pure; time is an argument.

    install, boot, upgrade ──▶ not offered ──(a run passes)──▶ offered ──(idle hours, or asked)──▶ run again
                                    ▲                                                                │ fails
                                    └──(fails again)── a warning, and another try a minute later ◀───┘

A run takes GPUs that nobody has, and gives way to everybody: see `arbitration`. Where single GPUs fail, the same run
has proven the way that they share: they are not offered, the machine is.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaalia.contracts.contract import OWN_KINDS, ContractKind
from kaalia.contracts.slicing import model_of
from kaalia.errors import Problem
from kaalia.model.canary import BrokenGpu, CanaryRun, CanaryState, Cause, Step, StepResult, Versions
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import MachineReport
from kaalia.model.workload import LaunchMode, PortRequest, Protocol, WorkloadSpec
from kaalia.units import MIB

LASTS = timedelta(minutes=10)
"""After that it is over, whoever forgets it. Eight GPUs without persistence mode take half a minute to open."""
QUOTA_BYTES = 32 * MIB
PORT = 7000
AGAIN_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1))
"""After the first failure, the second, and so on."""
GAVE_WAY_WAIT = timedelta(seconds=30)
_CLEARS = "a later run passes: kaalia canary --now"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container connects to, to prove its way out: a place of our own. `name` "": it has none.

    `why_not`: there is none to try.
    """

    name: str = ""
    address: str = ""
    port: int = 0
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs that a run may use. `groups`: how many of each model, the largest first; `why_not`: it has to wait."""

    groups: tuple[int, ...] = ()
    why_not: str = ""
    note: str = ""
    """Why no GPU is proven, though it may run."""


def versions(report: MachineReport) -> Versions:
    driver = report.driver.version if report.driver else None
    return Versions(report.agent_version, driver, report.engine.version if report.engine else None)


def versions_of(passed: CanaryRun | None, agent: str) -> Versions:
    """As far as they are known before the machine has been looked at: those of the last proof."""
    return Versions(agent, *((passed.versions.driver, passed.versions.engine) if passed else (None, None)))


def needed(state: CanaryState, now: Versions, boot_id: str) -> Cause | None:
    """Why nothing may be rented out before a run passes; None: one has, since the boot and the last upgrade."""
    passed = state.passed
    if passed is None:
        return Cause.INSTALL
    if passed.boot_id != boot_id:
        return Cause.BOOT
    is_known = passed.versions.agent == now.agent and all(
        current in (None, before)
        for before, current in ((passed.versions.driver, now.driver), (passed.versions.engine, now.engine))
    )
    return None if is_known else Cause.UPGRADE


def is_news(state: CanaryState, now: Versions, boot_id: str) -> bool:
    """The last run was of another boot, or of other versions: how it went says little of now."""
    return state.last is None or (state.last.boot_id, state.last.versions) != (boot_id, now)


def next_at(
    state: CanaryState, need: Cause | None, every: timedelta | None, *, news: bool
) -> tuple[Cause, datetime | None] | None:
    """The next run and when (None: at once); None: none. `every` None: only when it is asked for."""
    pause = None if state.gave_way_at is None else state.gave_way_at + GAVE_WAY_WAIT
    if state.asked_at is not None:
        return Cause.ASKED, pause
    if every is None:
        return None
    if state.last is not None and (state.failures or state.broken) and not news:
        # A GPU that is broken and was not there to be tried waits the longest.
        tries = state.failures or len(AGAIN_AFTER)
        at = state.last.ended_at + AGAIN_AFTER[min(tries, len(AGAIN_AFTER)) - 1]
        return Cause.AGAIN, at if pause is None else max(at, pause)
    if need is not None:
        return need, pause
    if state.last is None:
        return None
    at = state.last.ended_at + every
    return Cause.IDLE, at if pause is None else max(at, pause)


def room(
    report: MachineReport,
    owners: Mapping[str, int],
    kinds: Mapping[int, ContractKind],
    rented: int,
    unfit: Collection[str] = (),
) -> Room:
    """`owners`: UUID -> contract that has it; `kinds`: of contracts; `rented`: tenants' workloads that run.

    `unfit`: UUIDs of GPUs that are rented to nobody anew: what is wrong with them is told, and says nothing of others.
    """
    if not report.gpus:
        return Room(why_not="the machine is rented") if rented else Room(note="this machine has no GPU")
    free = Counter(model_of(gpu) for gpu in report.gpus if gpu.uuid not in {*owners, *unfit})
    if free:
        return Room(groups=tuple(sorted(free.values(), reverse=True)))
    if any(gpu.uuid not in owners for gpu in report.gpus):
        return Room(why_not="no GPU that is free is well")
    is_own = all(kinds.get(owners[gpu.uuid]) in OWN_KINDS for gpu in report.gpus)
    if is_own and not rented:
        return Room(note="the owner's own jobs have all GPUs")
    return Room(why_not="all GPUs are rented")


def specs(image: str, key: str, room: Room, target: Target, *, quota: bool) -> list[WorkloadSpec]:
    """One contract for each model of GPU, since none is given two. The first proves all the rest as well."""
    found = []
    for at, count in enumerate(room.groups or (0,)):
        is_first = at == 0
        out = (target.name or "-", target.address or "-", str(target.port)) if is_first else ("-", "-", "0")
        found.append(
            WorkloadSpec(
                image=image,
                launch_mode=LaunchMode.ARGS,
                disk_bytes=QUOTA_BYTES,
                gpu_count=count,
                args=(key, str(PORT), str(QUOTA_BYTES if quota and is_first else 0), *out),
                ports=(PortRequest(PORT), PortRequest(PORT, Protocol.UDP)),
            )
        )
    return found


def life(lasts: timedelta) -> tuple[tuple[str, str], ...]:
    """Variables of a container that shall live for so long: by itself it ends after a quarter of an hour."""
    return (("KAALIA_LIFE_S", str(int(lasts.total_seconds()))),) if lasts > LASTS else ()


def judged(step: StepResult, tried: Collection[str], known: Collection[str], shown: int) -> StepResult:
    """A failure on single GPUs of those `tried` is theirs: not one on all of several, or on the machine's only one.

    Then the way to all of them may be broken. `known`: to be broken already; `shown`: how many the machine has.
    """
    failed = set(step.gpu_uuids)
    is_own = failed != set(tried) or failed <= set(known) or (len(failed) == 1 and shown > 1)
    return step if is_own else replace(step, gpu_uuids=())


def after(state: CanaryState, found: CanaryRun, need: Cause | None, shown: Collection[str]) -> CanaryState:
    """What is known once a run has come to its end. `need`: why it had to pass; `shown`: the machine's GPUs."""
    known = {one.uuid: one for one in state.broken if one.uuid not in found.gpu_uuids or not found.proves_machine}
    if shown and found.cause in (Cause.INSTALL, Cause.BOOT, Cause.UPGRADE, Cause.ASKED):
        known = {uuid: one for uuid, one in known.items() if uuid in shown}  # the others were taken out
    before = {one.uuid for one in state.broken}
    for step in found.failed:
        known |= {uuid: BrokenGpu(uuid, step.words, need is not None or uuid in before) for uuid in step.gpu_uuids}
    passed = found if found.proves_machine else state.passed
    failures = 0 if found.has_passed else state.failures + 1
    broken = tuple(known[uuid] for uuid in sorted(known))
    return replace(state, last=found, passed=passed, failures=failures, waits_for="", gave_way_at=None, broken=broken)


def conditions(state: CanaryState, need: Cause | None) -> list[Condition]:
    """What is wrong. What failed once, of what was proven before, is a warning: it is tried again a minute later."""
    return [*_of_machine(state, need), *map(_of_gpu, state.broken)]


def _of_machine(state: CanaryState, need: Cause | None) -> list[Condition]:
    failed = [one for one in state.last.failed if not one.gpu_uuids] if state.last else []
    if state.failures and failed:
        severity = Severity.WARN if need is None and state.failures == 1 else Severity.CRITICAL
        return [Condition(_problem(one), severity, _CLEARS, blocks=True) for one in failed]
    if need is None:
        return []
    since = {
        Cause.INSTALL: "it was installed",
        Cause.BOOT: "it was started",
        Cause.UPGRADE: "kaalia, the driver or Docker was upgraded",
    }[need]
    problem = Problem(
        "canary_pending",
        f"cannot rent this machine out yet: it has not proven itself since {since}",
        remedy="it does so by itself when a GPU is free; see: kaalia canary",
        evidence=f"waits: {state.waits_for}" if state.waits_for else "",
    )
    return [Condition(problem, Severity.UNKNOWN, _CLEARS, blocks=True)]


def _of_gpu(one: BrokenGpu) -> Condition:
    problem = Problem(
        "canary_gpu_failed",
        f"cannot rent {one.uuid} out: a container of the machine's own that was given it could not use it",
        remedy="see nvidia-smi, and nvidia-ctk --version; dmesg names what is wrong with a GPU; "
        "then: kaalia canary --now",
        evidence=one.words,
    )
    severity = Severity.CRITICAL if one.is_sure else Severity.WARN
    return Condition(problem, severity, "a later run with this GPU passes: kaalia canary --now", one.uuid)


def _problem(one: StepResult) -> Problem:
    match one.step:
        case Step.LAUNCH:
            return Problem(
                "canary_launch_failed",
                "cannot rent this machine out: a container of its own did not come up",
                remedy="see what Docker says: journalctl -u docker; docker info; then: kaalia canary --now",
                evidence=one.words,
            )
        case Step.GPU:
            return Problem(
                "canary_gpu_failed",
                "cannot rent this machine out: a container does not have exactly the GPUs that it was given",
                remedy="see nvidia-smi, and nvidia-ctk --version; "
                "install the NVIDIA Container Toolkit anew, restart Docker, then: kaalia canary --now",
                evidence=one.words,
            )
        case Step.NETWORK:
            return Problem(
                "canary_network_failed",
                "cannot rent this machine out: a container does not reach what it should",
                remedy="see whether other rules stand in the way: iptables -S FORWARD, nft list ruleset; "
                "then: kaalia canary --now",
                evidence=one.words,
            )
        case Step.PORTS:
            return Problem(
                "canary_ports_failed",
                "cannot rent this machine out: a port of a container was not answered",
                remedy="see whether other rules stand in the way: iptables -t nat -S, nft list ruleset; "
                "then: kaalia canary --now",
                evidence=one.words,
            )
        case Step.QUOTA:
            return Problem(
                "canary_quota_failed",
                "cannot rent this machine out: a container's disk is not held to its size",
                remedy="see docker info (Storage Driver, Backing Filesystem): btrfs with quotas on, or xfs with "
                "pquota; then: kaalia canary --now",
                evidence=one.words,
            )
