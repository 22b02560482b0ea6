"""Keeps the capability report current: reads the machine, stores what it is, tells the marketplace what changed.

Tells the owner when the kernel may take ports of renters for itself.
"""

import asyncio
import logging
from dataclasses import replace

from kaalia.capability import hardware, inventory, network, ports
from kaalia.capability.report import Inputs, Surveyed, digest, survey
from kaalia.clock import Clock
from kaalia.model.gpu_health import GpuReading
from kaalia.model.inventory import GpuParts, Inventory
from kaalia.model.machine import MachineReport
from kaalia.model.reach import PortMap
from kaalia.model.speed import MeasuredSpeed
from kaalia.pulse import PULSE
from kaalia.service import run_forever
from kaalia.store import conditions, disk, energy, gpu_health, gpu_use, machine, measurements, outbox, reach, speed
from kaalia.store import inventory as inventories
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.wire import document
from kaalia.wire.local import DiskLedger
from kaalia.wire.protocol import MessageKind

INTERVAL_S = 60.0
AFTER_S = 3.0
"""With a stored report a restarted daemon finds its tenants first: the probe of the GPUs is a process of its own."""
INVENTORY_S = 3600.0
"""What stays is read so seldom, and when other GPUs or another driver are found."""
RESEND_S = 300.0
"""Free space, memory and temperatures may be this old at the marketplace."""

log = logging.getLogger(__name__)


class CapabilityService:
    """Collects soon after the start and every `interval_s`. Decides nothing: a GPU that vanished is only told of."""

    name = "capability"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        inputs: Inputs,
        interval_s: float = INTERVAL_S,
        resend_s: float = RESEND_S,
        changes: Changes | None = None,
    ) -> None:
        """`changes`: what wakes it before its time: new addresses and speeds, an engine that went or came."""
        self._database = database
        self._clock = clock
        self._inputs = inputs
        self._interval_s = interval_s
        self._resend_s = resend_s
        bells = (Topic.ADDRESS, Topic.SPEED, Topic.ENGINE, Topic.REPORT, Topic.MEASUREMENTS, Topic.DRIVER)
        self._bell = changes.subscribe(*bells) if changes else asyncio.Event()
        self._ordered = changes.subscribe(Topic.REPORT) if changes else asyncio.Event()
        self._driver = changes.subscribe(Topic.DRIVER) if changes else asyncio.Event()
        self._turn_at_s = 0.0
        self._parts: tuple[GpuParts, ...] = ()
        self._parts_of: object = None
        """Driver and GPUs, by which the inventory was read."""
        self._parts_at_s = 0.0
        self._sent_digest = ""
        self._sent_at_s = 0.0

    async def run(self) -> None:
        if await self._database.read(machine.get_report) is not None:
            await asyncio.sleep(AFTER_S)
        await run_forever(self.name, self._turn)

    async def refresh(self) -> MachineReport:
        """Collect and store one report; queue it for the marketplace if it is news or ordered. Raises StoreError."""
        is_ordered, is_early = self._ordered.is_set(), self._driver.is_set() and self._left_s() > 0
        self._ordered.clear()
        self._driver.clear()
        if not is_early:
            self._turn_at_s = self._clock.monotonic_s()
        surveyed, listed = await self._survey()
        gpus = replace(surveyed.gpus, out_of_turn=is_early)
        report = inventory.with_parts(surveyed.report, self._parts)
        report = network.with_outside(report, *await self._database.read(_outside))
        uuids = [gpu.uuid for gpu in report.gpus]
        report = replace(report, benchmarks=await self._database.read(lambda tx: measurements.benchmarks(tx, uuids)))
        wrong = await asyncio.to_thread(ports.find, self._inputs.port_range, self._inputs.root)
        report = _with_ledger(report, await self._database.read(disk.get_ledger))
        found = digest(report)
        changed = found != self._sent_digest
        due = changed or is_ordered or self._clock.monotonic_s() - self._sent_at_s >= self._resend_s

        def store(tx: Transaction) -> None:
            machine.put_report(tx, report)
            hardware.note(tx, report)
            conditions.replace(tx, ports.SOURCE, wrong, report.collected_at)
            gpu_health.put(tx, gpus)
            energy.count(tx, _energies(gpus), report.collected_at)
            if surveyed.use is not None:
                gpu_use.put(tx, surveyed.use)
            if listed is not None:
                inventories.put(tx, listed)
            if due:
                outbox.replace(tx, MessageKind.REPORT, document.encode(report), report.collected_at)

        rings = (Topic.GPUS, *([Topic.MACHINE] if changed else []), *([Topic.OUTBOX] if due else []))
        await self._database.transaction(store, *rings)
        if due:
            self._sent_digest, self._sent_at_s = found, self._clock.monotonic_s()
        if changed:
            _log(report)
        return report

    async def _survey(self) -> tuple[Surveyed, Inventory | None]:
        """The inventory too where it is due; a driver or GPUs that changed since make it due at once."""
        due = self._parts_of is None or self._clock.monotonic_s() - self._parts_at_s >= INVENTORY_S
        now = self._clock.now()
        found = await survey(self._inputs, now, with_parts=due)
        if not due and _identity(found.report) != self._parts_of:
            found = await survey(self._inputs, now, with_parts=True)
        listed: Inventory | None = None
        if found.parts is not None:
            listed = await inventory.collect(found.report, found.parts, self._inputs.root, now)
            self._parts, self._parts_of = listed.gpus, _identity(found.report)
            self._parts_at_s = self._clock.monotonic_s()
        return found, listed

    async def _turn(self) -> None:
        with PULSE.turn("report"):
            await self.refresh()
        await wait(self._bell, max(0.0, self._left_s()))

    def _left_s(self) -> float:
        """Until the next turn: readings between two of them do not put it off."""
        return self._turn_at_s + self._interval_s - self._clock.monotonic_s()


def _energies(reading: GpuReading) -> dict[str, int]:
    """Of the GPUs that count what they use, in millijoules."""
    told = ((one.uuid, one.facts.get("energy_mj")) for one in reading.gpus)
    return {uuid: int(value) for uuid, value in told if uuid is not None and value is not None}


def _identity(report: MachineReport) -> object:
    return report.driver, tuple(gpu.uuid for gpu in report.gpus)


def _outside(tx: Transaction) -> tuple[PortMap | None, str | None, MeasuredSpeed | None]:
    return reach.get_map(tx), reach.get_seen_address(tx), speed.get_result(tx)


def _with_ledger(report: MachineReport, ledger: DiskLedger | None) -> MachineReport:
    """Who holds what of the disk is counted seldom, since the engine walks all files for it."""
    if report.disk is None or ledger is None:
        return report
    return replace(report, disk=replace(report.disk, others_bytes=ledger.others_bytes))


def _log(report: MachineReport) -> None:
    names = ", ".join(sorted({gpu.name for gpu in report.gpus})) or "none"
    mark = " (simulated)" if report.driver and report.driver.simulated else ""
    log.info("machine: %d GPU(s): %s%s, %d fact(s) missing", len(report.gpus), names, mark, len(report.missing))
    for entry in report.missing:
        log.info("machine: %s is missing: %s", entry.field, entry.reason)
