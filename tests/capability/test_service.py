"""The service: stores each report, tells the marketplace what is news, and survives a machine that fails."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.capability import network
from kaalia.capability.report import Inputs, digest
from kaalia.capability.service import CapabilityService
from kaalia.errors import WorkloadError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.health import Severity
from kaalia.model.machine import Engine, MachineReport, Missing, Network, PortRange, ProvenPorts
from kaalia.model.reach import PortMap, PortSpan, PortState, Reason
from kaalia.model.volume import VolumeBackend
from kaalia.model.workload import Protocol
from kaalia.service import run_services
from kaalia.store import conditions, disk, gpu_use, outbox, reach
from kaalia.store import machine as machine_rows
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.wire import document, facts
from kaalia.wire.local import DiskLedger
from tests.capability.conftest import MakeProbe
from tests.support.clock import START, FakeClock
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, write
from tests.support.machines import machine_report

PORTS = PortRange(40000, 40799)
OPEN = PortSpan(40000, 40010, Protocol.TCP, PortState.OPEN, Reason.ANSWERED, is_open=True)


async def engine() -> Engine:
    return Engine("27.3.1", "1.47", "overlay2", "/", "2", True, False, "none")


def service(store: Database, clock: FakeClock, probe: NvmlProbe) -> CapabilityService:
    return CapabilityService(store, clock, Inputs(probe, engine, PORTS, public_ip="203.0.113.7"), resend_s=300)


def put(root: Path, name: str, text: str) -> None:
    folder = root / "proc/sys/net/ipv4"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


async def sent(store: Database) -> list[MachineReport]:
    """The reports that wait in the outbox."""
    rows = await store.read(lambda tx: outbox.pending(tx, 100))
    assert all(row.kind == "report" for row in rows)
    return [document.decode(MachineReport, row.body) for row in rows]


async def acknowledge(store: Database) -> None:
    await store.transaction(lambda tx: outbox.acknowledge(tx, 10**9))


async def test_the_first_report_is_stored_and_sent(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe
) -> None:
    machine_bell, outbox_bell = changes.subscribe(Topic.MACHINE), changes.subscribe(Topic.OUTBOX)

    report = await service(store, clock, simulated(machine("2xRTX_4090"))).refresh()

    assert await store.read(machine_rows.get_report) == report
    assert await sent(store) == [report]
    assert machine_bell.is_set()
    assert outbox_bell.is_set()


async def test_who_uses_the_gpus_is_kept_here_and_told_nobody(
    store: Database, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    subject = service(store, clock, simulated(setting(0, "processes", os.getpid()) + machine("1xA100")))
    await subject.refresh()
    use = await store.read(gpu_use.get)

    assert use is not None
    assert [process.pid for process in use.processes] == [os.getpid()]
    assert use.processes[0].name
    assert await sent(store)
    assert not [row.body for row in await store.read(lambda tx: outbox.pending(tx, 100)) if '"pid"' in row.body]

    clock.advance(60)
    write(profile, fault("nvmlInitWithFlags", "error 999") + machine("1xA100"))
    await subject.refresh()
    assert await store.read(gpu_use.get) == use  # nobody could be asked: the last word stands, with its time


async def test_a_machine_that_stays_is_stored_but_not_sent_again(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    subject = service(store, clock, simulated(machine("1xA100")))
    await subject.refresh()
    await acknowledge(store)
    bells = changes.subscribe(Topic.MACHINE, Topic.OUTBOX)

    clock.advance(299)
    write(profile, setting(0, "temperature_c", 80) + setting(0, "utilization_percent", 100) + machine("1xA100"))
    report = await subject.refresh()

    assert report.gpus[0].temperature_c == 80
    assert await store.read(machine_rows.get_report) == report
    assert await sent(store) == []
    assert not bells.is_set()


async def test_a_report_is_sent_again_after_five_minutes(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe
) -> None:
    subject = service(store, clock, simulated(machine("1xA100")))
    await subject.refresh()
    await acknowledge(store)
    machine_bell, outbox_bell = changes.subscribe(Topic.MACHINE), changes.subscribe(Topic.OUTBOX)

    clock.advance(300)
    report = await subject.refresh()

    assert await sent(store) == [report]
    assert outbox_bell.is_set()
    assert not machine_bell.is_set()
    clock.advance(299)
    await acknowledge(store)
    await subject.refresh()
    assert await sent(store) == []


async def test_what_others_hold_of_the_disk_is_told_with_the_next_report(
    store: Database, clock: FakeClock, simulated: MakeProbe
) -> None:
    made = service(store, clock, simulated(machine("1xRTX_4090")))
    unknown = await made.refresh()
    ledger = DiskLedger(clock.now(), 1000, 400, VolumeBackend.LOOP, "/v", True, (), others_bytes=300)
    await store.transaction(lambda tx: disk.put_ledger(tx, ledger))

    counted = await made.refresh()

    assert unknown.disk is not None
    assert counted.disk is not None
    assert (unknown.disk.others_bytes, counted.disk.others_bytes) == (None, 300)
    assert digest(counted) == digest(unknown), "it moves all the time"


async def test_a_lost_gpu_is_told_at_once(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    subject = service(store, clock, simulated(machine("2xRTX_4090")))
    await subject.refresh()
    await acknowledge(store)
    bell = changes.subscribe(Topic.MACHINE)

    write(profile, machine("2xRTX_4090") + setting(1, "lost_after", 0))
    await subject.refresh()

    (report,) = await sent(store)
    assert [gpu.index for gpu in report.gpus] == [0]
    assert bell.is_set()


async def test_a_failing_driver_is_reported_and_healed(
    store: Database, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    subject = service(store, clock, simulated(machine("1xT4") + fault("nvmlDeviceGetCount_v2", "abort")))

    failed = await subject.refresh()
    write(profile, machine("1xT4"))
    healed = await subject.refresh()

    assert failed.gpus == ()
    assert any("died" in entry.reason for entry in failed.missing)
    assert len(healed.gpus) == 1
    assert await sent(store) == [healed]


async def test_ports_that_the_kernel_may_take_are_a_condition_until_they_are_reserved(
    store: Database, clock: FakeClock, simulated: MakeProbe, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    put(root, "ip_local_port_range", "32768\t60999\n")
    put(root, "ip_local_reserved_ports", "\n")
    inputs = Inputs(simulated(machine("1xT4")), engine, PORTS, public_ip="203.0.113.7", root=root)
    subject = CapabilityService(store, clock, inputs)
    await subject.refresh()
    (found,) = await store.read(conditions.all_open)
    assert (found.source, found.condition.problem.code) == ("ports", "ports_not_reserved")
    assert found.condition.severity is Severity.WARN

    put(root, "ip_local_reserved_ports", "40000-40799\n")
    await subject.refresh()

    assert await store.read(conditions.all_open) == ()


async def test_unsent_reports_do_not_pile_up(store: Database, clock: FakeClock, simulated: MakeProbe) -> None:
    subject = service(store, clock, simulated(machine("1xT4")))

    for _ in range(3):
        last = await subject.refresh()
        clock.advance(3600)

    assert await sent(store) == [last]


async def test_other_messages_are_left_alone(store: Database, clock: FakeClock, simulated: MakeProbe) -> None:
    await store.transaction(lambda tx: outbox.add(tx, "workload", "{}", clock.now()))

    await service(store, clock, simulated(machine("1xT4"))).refresh()

    rows = await store.read(lambda tx: outbox.pending(tx, 100))
    assert [row.kind for row in rows] == ["workload", "report"]


async def test_a_report_that_could_not_be_stored_is_still_news(
    tmp_path: Path, changes: Changes, clock: FakeClock, simulated: MakeProbe
) -> None:
    database = Database(tmp_path / "later.db", changes)
    subject = service(database, clock, simulated(machine("1xT4")))
    with pytest.raises(Exception, match="not open"):
        await subject.refresh()

    await database.open()
    report = await subject.refresh()

    assert await sent(database) == [report]
    await database.close()


async def test_runs_until_stopped_and_goes_on_after_failures(store: Database, clock: FakeClock) -> None:
    calls = 0
    stop = asyncio.Event()

    async def flaky() -> Engine:
        nonlocal calls
        calls += 1
        if calls >= 3:
            stop.set()
        raise WorkloadError("engine_unavailable", "cannot reach Docker")

    inputs = Inputs(NvmlProbe(python="/no/such/python"), flaky, PORTS)
    subject = CapabilityService(store, clock, inputs, interval_s=0.01)

    async with asyncio.timeout(60):
        await run_services([subject], stop)

    assert subject.name == "capability"
    assert calls >= 3


async def test_what_the_outside_knows_is_part_of_the_report(
    store: Database, clock: FakeClock, simulated: MakeProbe
) -> None:
    probed = PortMap(clock.now(), "http://prober", PORTS, None, "203.0.113.7", "203.0.113.7", None, (OPEN,))
    await store.transaction(lambda tx: reach.put_map(tx, probed))

    report = await service(store, clock, simulated(machine("1xT4"))).refresh()

    assert report.network.proven == ProvenPorts("203.0.113.7", 11, 0, clock.now())
    assert facts.encode(report)["direct_port_count"] == 11
    (told,) = await sent(store)
    assert told == report


@pytest.mark.parametrize(
    ("changes", "told", "public_ip", "proven"),
    [
        ({}, None, "8.8.4.4", True),
        ({}, "9.9.9.9", "9.9.9.9", False),
        ({}, "2001:4860:4860::8888", "8.8.4.4", True),
        ({"prober": "http://prober"}, None, None, False),
        ({"prober": "http://prober"}, "2001:4860:4860::8888", None, False),
        ({"prober": "http://prober"}, "192.168.1.20", None, False),
        ({"prober": "http://prober"}, "9.9.9.9", "9.9.9.9", False),
        ({"prober": "http://prober"}, "8.8.4.4", "8.8.4.4", True),
        ({"seen_address": "100.64.0.9", "address": "100.64.0.9"}, None, None, False),
        ({"seen_address": "10.0.0.9", "address": "10.0.0.9"}, "10.0.0.9", None, False),
        ({"port_range": PortRange(40000, 40010)}, None, "8.8.4.4", False),
    ],
)
def test_behind_a_router_the_address_is_what_the_outside_sees(
    changes: dict[str, Any], told: str | None, public_ip: str | None, proven: bool
) -> None:
    probed = PortMap(START, "https://prober", PORTS, None, "8.8.4.4", "8.8.4.4", None, (OPEN,))
    behind = machine_report(
        network=Network(None, ("192.168.1.20",), PORTS), missing=(Missing("network.public_ip", "private"),)
    )

    found = network.with_outside(behind, replace(probed, **changes), told)

    assert found.network.public_ip == public_ip
    assert (found.network.proven is not None) == proven
    assert bool(found.missing) == (public_ip is None)
    assert network.with_outside(behind, None, None) == behind


@pytest.mark.parametrize(
    ("told", "public_ip"), [("2001:4860:4860::8888", "2001:4860:4860::8888"), ("9.9.9.9", None), ("fd00::9", None)]
)
def test_a_machine_with_ipv6_alone_is_told_by_that(told: str, public_ip: str | None) -> None:
    alone = machine_report(
        network=Network(None, ("fd00::7",), PORTS), missing=(Missing("network.public_ip", "private"),)
    )

    assert network.with_outside(alone, None, told).network.public_ip == public_ip


async def test_a_gpu_that_is_gone_is_an_event_until_it_is_back(
    store: Database, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    whole = machine("2xRTX_4090")
    subject = service(store, clock, simulated(whole))
    told = []
    for text in (whole, "system count 1\n" + whole, fault("nvmlInitWithFlags", "error 999") + whole, whole):
        write(profile, text)
        await subject.refresh()
        found = [each.condition for each in await store.read(conditions.all_open) if each.source == "hardware"]
        told.append([(each.problem.code, each.scope, each.severity) for each in found])

    gone = [("gpu_gone", gpu_uuid(1), Severity.WARN)]
    assert told == [[], gone, gone, []]


async def test_gpus_that_the_driver_did_not_tell_at_first_are_not_new_when_it_does(
    store: Database, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    whole = machine("2xRTX_4090")
    subject = service(store, clock, simulated(fault("nvmlInitWithFlags", "error 999") + whole))
    for text in (profile.read_text(), whole):
        write(profile, text)
        await subject.refresh()

    assert [each for each in await store.read(conditions.all_open) if each.source == "hardware"] == []


async def test_an_ordered_report_is_sent_although_it_is_no_news(
    store: Database, clock: FakeClock, simulated: MakeProbe, changes: Changes
) -> None:
    inputs = Inputs(simulated(machine("1xRTX_4090")), engine, PORTS, public_ip="203.0.113.7")
    made = CapabilityService(store, clock, inputs, resend_s=300, changes=changes)
    await made.refresh()
    await acknowledge(store)
    await made.refresh()
    assert await sent(store) == []

    changes.ring(Topic.REPORT)
    await made.refresh()

    assert len(await sent(store)) == 1
