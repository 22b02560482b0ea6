"""The daemon in one document, read from the store: what it is connected to, what runs, and what is wrong."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from kaalia import __version__
from kaalia.api.context import Context
from kaalia.contracts import cordon
from kaalia.contracts.local import is_local
from kaalia.contracts.maintenance import open_windows
from kaalia.contracts.offer import Listing
from kaalia.contracts.symptoms import causes
from kaalia.errors import Problem
from kaalia.model.health import Severity
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState
from kaalia.store import conditions, contracts, enrolment, machine, maintenance, outbox, standing, workloads
from kaalia.store.claims import Claim, ClaimKind, all_claims
from kaalia.store.database import Transaction
from kaalia.wire.local import DaemonStatus, GpuGroup, MarketplaceLink

REPORT_OLD_AFTER = timedelta(hours=2)
"""Reports come every hour at the very least (intervals.report_s <= 3600)."""


_OF_DRIVER = ("gpu_driver_", "gpu_probe_")
"""How the codes of conditions begin that tell why no GPU can be read."""


async def read(context: Context) -> DaemonStatus:
    """The status now. Raises StoreError; in safe mode it answers, since that is what a person must see then."""
    now = context.clock.now()
    if context.safe_mode:
        return _document(context, now, None, None, None, {}, (), (context.safe_mode,), ())
    return await context.read(lambda tx: _read(context, tx, now))


def line(status: DaemonStatus) -> str:
    """The status in a line, for `systemctl status`."""
    if status.safe_mode:
        return f"safe mode: {status.problems[0].message}"
    link = status.marketplace
    parts = [f"machine {link.machine_id} of {link.url}" if link else "not enrolled"]
    parts += [f"{count} {state}" for state, count in sorted(status.contracts.items())]
    if status.cordon is not None:
        parts.append(cordon.in_short(status.cordon))
    parts += [problem.message for problem in status.problems if problem.code != "not_enrolled"]
    return ", ".join(parts)


def _read(context: Context, tx: Transaction, now: datetime) -> DaemonStatus:
    report, listing, link = machine.get_report(tx), machine.get_listing(tx), _link(tx)
    statuses = workloads.all_workloads(tx)
    waiting = {stored.contract.contract_id: WorkloadState.WAITING for stored in contracts.all_contracts(tx)}
    found = [one.condition for one in causes(conditions.all_open(tx))]
    known = {**waiting, **{number: each.state for number, each in statuses.items()}}
    states = Counter(state for number, state in known.items() if not is_local(number))
    warnings = tuple(one.problem for one in found if one.severity is Severity.WARN)
    worse = [one.problem for one in found if one.severity is not Severity.WARN]
    now_wrong = [problem for problem in (context.clock_problem(), context.database.write_problem) if problem]
    told = {problem.code for problem in worse}
    own = [problem for problem in _problems(link, report, now) if not _is_told(problem, told)]
    problems = (*own, *now_wrong, *worse)
    status = _document(context, now, link, report, listing, dict(states), all_claims(tx), problems, warnings)
    placed = maintenance.get_cordon(tx)
    is_up = placed is not None and cordon.is_up(placed.cordon, now)
    windows = open_windows(maintenance.windows(tx), now)
    shown = placed.cordon if placed and is_up else None
    return replace(status, cordon=shown, maintenances=windows, verification=standing.verification(tx))


def _is_told(problem: Problem, told: set[str]) -> bool:
    """A condition says it, or says why: of the driver, what it is that keeps the GPUs from being read."""
    said_better = problem.code == "gpus_unreadable" and any(code.startswith(_OF_DRIVER) for code in told)
    return said_better or problem.code in told


def _link(tx: Transaction) -> MarketplaceLink | None:
    enrolled, snapshot = enrolment.get(tx), enrolment.get_snapshot(tx)
    if enrolled is None:
        return None
    return MarketplaceLink(
        url=enrolled.url,
        machine_id=enrolled.machine_id,
        enrolled_at=enrolled.enrolled_at,
        revision=snapshot.revision if snapshot else None,
        snapshot_at=snapshot.received_at if snapshot else None,
        admits_until=snapshot.not_after if snapshot else None,
        unsent_messages=outbox.count(tx),
    )


def _document(
    context: Context,
    now: datetime,
    link: MarketplaceLink | None,
    report: MachineReport | None,
    listing: Listing | None,
    states: dict[WorkloadState, int],
    claims: Iterable[Claim],
    problems: tuple[Problem, ...],
    warnings: tuple[Problem, ...],
) -> DaemonStatus:
    driver = report.driver if report else None
    return DaemonStatus(
        version=__version__,
        pid=os.getpid(),
        started_at=context.started_at,
        as_of=now,
        safe_mode=context.safe_mode is not None,
        marketplace=link,
        price_gpu_per_hour=listing.price_gpu_per_hour if listing else None,
        gpus=_gpu_groups(report, {each.key for each in claims if each.kind is ClaimKind.GPU}),
        simulated=driver.simulated if driver else False,
        driver_version=driver.version if driver else None,
        engine_version=report.engine.version if report and report.engine else None,
        reported_at=report.collected_at if report else None,
        contracts=states,
        problems=problems,
        warnings=warnings,
    )


def _gpu_groups(report: MachineReport | None, claimed: set[str]) -> tuple[GpuGroup, ...]:
    gpus = report.gpus if report else ()
    counts = Counter((gpu.name, gpu.vram_mb) for gpu in gpus)
    used = Counter((gpu.name, gpu.vram_mb) for gpu in gpus if gpu.uuid in claimed)
    return tuple(GpuGroup(name, count, vram_mb, used[name, vram_mb]) for (name, vram_mb), count in counts.items())


def _problems(link: MarketplaceLink | None, report: MachineReport | None, now: datetime) -> Iterator[Problem]:
    if link is None:
        yield Problem(
            "not_enrolled",
            "cannot receive rentals: this machine is not enrolled",
            "run: kaalia enroll URL --token-file FILE",
        )
    elif link.admits_until and link.admits_until < now:
        yield Problem(
            "marketplace_silent",
            f"cannot admit new rentals: {link.url} has not been heard of in time; running ones go on",
            "check the network and the marketplace",
        )
    if report is None:
        yield Problem("no_report_yet", "cannot say what this machine is: no report has been made yet", "wait a little")
        return
    if now - report.collected_at > REPORT_OLD_AFTER:
        yield Problem(
            "report_old", f"cannot trust the report: it is of {report.collected_at:%Y-%m-%d %H:%M} UTC", "see the log"
        )
    yield from _unread(report)


def _unread(report: MachineReport) -> Iterator[Problem]:
    """The parts of the machine without which nothing can be rented out; why comes from the report itself."""
    reasons = {each.field: each.reason for each in report.missing}
    if report.engine is None:
        why = reasons.get("engine", "")
        yield Problem("engine_unavailable", "cannot run rentals: Docker does not answer", "start Docker", why)
    if report.driver is None and "gpus" in reasons:
        yield Problem("gpus_unreadable", "cannot read the GPUs", "see: nvidia-smi", reasons["gpus"])
