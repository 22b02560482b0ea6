"""Containers of the machine's own, through the road that a tenant's take: begun, asked, held against what they say.

They take GPUs that nobody has. Who comes for those ends them, and whoever waits here hears of it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from kaalia.clock import Clock
from kaalia.contracts import canary as rules
from kaalia.contracts import canary_report as words
from kaalia.contracts.canary import Room, Target
from kaalia.contracts.canary_report import Given, Report
from kaalia.contracts.ports import address_in
from kaalia.host import gpu_nodes
from kaalia.model.canary import Step, StepResult
from kaalia.model.certificate import Certificate
from kaalia.model.machine import MachineReport
from kaalia.model.reach import Outcome as SeenOutside
from kaalia.model.selftest import Outcome
from kaalia.model.workload import Protocol, WorkloadSpec, WorkloadStatus
from kaalia.selftest.asking import answers, control
from kaalia.selftest.local_work import LocalWork
from kaalia.store import certificates, claims
from kaalia.store.changes import Topic
from kaalia.store.database import Database, Transaction
from kaalia.wire.signature import TlsPublicKey

LAUNCH_S = 120.0
"""Docker may just have started, and the machine may be starting everybody's workloads."""
REPORT_S = 120.0
GONE_S = 60.0
"""A container that is told to go has ten seconds for it."""
READ_EVERY_S = (0.1, 0.2, 0.3, 0.5, 1.0)
LOG_LINES = 500
KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class NotebookMeans:
    """For a container with Jupyter. `why_not`: why there can be none, or ""; reads the disk. `image`: makes one anew,
    and gives its name; `clear`: removes all that no container uses. `public_key`: for a contract's certificate."""

    why_not: Callable[[], str]
    image: Callable[[], Awaitable[str]]
    clear: Callable[[], Awaitable[None]]
    public_key: Callable[[int], TlsPublicKey]


@dataclass(frozen=True, slots=True)
class Means:
    """`image`: makes sure of the test image, and gives its name. `logs`: the last lines that a contract's container
    wrote. `target`: the place outside to try. `outside`: what a prober sees of a TCP port. `minors`: for tests.
    `notebook` None: Jupyter is not tried."""

    image: Callable[[], Awaitable[str]]
    logs: Callable[[int, int], Awaitable[str]]
    target: Callable[[], Awaitable[Target]]
    outside: Callable[[int], Awaitable[SeenOutside | None]]
    minors: Callable[[], dict[str, int]] = gpu_nodes.minors
    notebook: NotebookMeans | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """They run. `rows`: one a contract, the first proves everything, the others their GPUs only."""

    rows: tuple[WorkloadStatus, ...]
    took_s: float
    key: str
    target: Target
    quota_bytes: int


class Containers:
    """The contracts of one purpose, and what is read of them."""

    def __init__(self, database: Database, clock: Clock, work: LocalWork, means: Means) -> None:
        self._database = database
        self._clock = clock
        self._work = work
        self._means = means

    @asynccontextmanager
    async def running(
        self, report: MachineReport, room: Room, lasts: timedelta = rules.LASTS
    ) -> AsyncIterator[Running]:
        """Within it they run, or ran. Raises KaaliaError: they do not come up, or `test_gave_way` for somebody else."""
        image, target = await self._means.image(), await self._means.target()
        key = secrets.token_hex(KEY_BYTES)
        quota = report.engine is not None and report.engine.enforces_disk_size
        specs = [replace(one, env=rules.life(lasts)) for one in rules.specs(image, key, room, target, quota=quota)]
        began_s = self._clock.monotonic_s()
        numbers = await self._work.begin(specs, lasts)
        try:
            rows = tuple([await self._work.running(number, LAUNCH_S) for number in numbers])
            took_s = self._clock.monotonic_s() - began_s
            yield Running(rows, took_s, key, target, rules.QUOTA_BYTES if quota else 0)
        finally:
            await self._work.end(numbers)

    @asynccontextmanager
    async def one(
        self, spec: WorkloadSpec, within_s: float, certify: Callable[[int], Certificate] | None = None
    ) -> AsyncIterator[WorkloadStatus]:
        """A further one, which is gone after the context: nobody else without GPUs runs beside it.

        `certify`: makes its certificate, where it has one. Raises as `running`, and WorkloadError `test_not_gone`.
        """
        numbers = await self._work.begin([spec], rules.LASTS)
        try:
            if certify is not None:
                made = await asyncio.to_thread(certify, numbers[0])
                await self._database.transaction(lambda tx: certificates.put(tx, made), Topic.CONTRACTS)
            yield await self._work.running(numbers[0], within_s)
        finally:
            await self._work.end(numbers)
        await self._work.gone(numbers, GONE_S)

    async def image(self) -> str:
        """The test image. Raises WorkloadError."""
        return await self._means.image()

    @property
    def notebook(self) -> NotebookMeans | None:
        return self._means.notebook

    async def logs(self, contract_id: int, lines: int) -> str:
        """Its last words. Raises WorkloadError."""
        return await self._means.logs(contract_id, lines)

    async def proven(self, running: Running, report: MachineReport, room: Room) -> tuple[StepResult, ...]:
        """Each step with what was seen. While they run: what is ended gives its network back. Raises as `running`."""
        minors = await asyncio.to_thread(self._means.minors)
        given = [await self._given(row, report, room, running, minors) for row in running.rows]
        places = {one.protocol: one.host_port for one in running.rows[0].ports}
        answered = await answers(own_address(report), places, running.key)
        outside = await self._means.outside(places[Protocol.TCP]) if Protocol.TCP in places else None
        reports = [await self._report(row.contract_id) for row in running.rows]
        first, target = reports[0], running.target
        still = await control(target) if first.connect_problem or first.name_problem else ""
        return (
            StepResult(Step.LAUNCH, Outcome.PASSED, f"running after {running.took_s:.2f} s"),
            _joined([words.gpu(told, one) for told, one in zip(reports, given, strict=True)]),
            words.network(first, given[0], still),
            words.ports(answered, places, outside),
            words.quota(first, given[0]),
        )

    async def _report(self, contract_id: int) -> Report:
        """What it says, whole; or as far as it came in time. Raises as `LocalWork.still`."""
        deadline_s = self._clock.monotonic_s() + REPORT_S
        turn = 0
        while True:
            told = words.read(await self._means.logs(contract_id, LOG_LINES))
            if told.is_done or self._clock.monotonic_s() >= deadline_s:
                return told
            await self._work.still(contract_id)
            await asyncio.sleep(READ_EVERY_S[min(turn, len(READ_EVERY_S) - 1)])
            turn += 1

    async def _given(
        self, row: WorkloadStatus, report: MachineReport, room: Room, running: Running, minors: dict[str, int]
    ) -> Given:
        subnet = await self._database.read(lambda tx: _subnet(tx, row.contract_id))
        known = {minors[uuid]: uuid for uuid in row.gpu_uuids if uuid in minors}
        return Given(
            gpu_count=len(row.gpu_uuids),
            uuids=known if len(known) == len(row.gpu_uuids) else None,
            is_simulated=report.driver is not None and report.driver.simulated,
            quota_bytes=running.quota_bytes,
            target=running.target,
            address=address_in(subnet) if subnet else "",
            note=room.note,
        )


def own_address(report: MachineReport) -> str:
    return next((one for one in report.network.local_ips if ":" not in one), "127.0.0.1")


def _joined(gpus: list[StepResult]) -> StepResult:
    """Of all models: those that failed, if one did; and on which GPUs, where all of them tell that."""
    failed = [one for one in gpus if one.outcome is Outcome.FAILED]
    best = [one for one in gpus if one.outcome is Outcome.PASSED]
    chosen = failed or best or gpus[:1]
    uuids = tuple(uuid for one in failed for uuid in one.gpu_uuids) if all(one.gpu_uuids for one in failed) else ()
    return StepResult(Step.GPU, chosen[0].outcome, "; ".join(one.words for one in chosen), uuids)


def _subnet(tx: Transaction, contract_id: int) -> str:
    found = (one.key for one in claims.all_claims(tx) if one.contract_id == contract_id)
    return next((key for key in found if "/" in key), "")
