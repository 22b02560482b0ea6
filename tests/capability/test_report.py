"""The report: complete where the machine tells, honest where it does not, steady while nothing that stays changes."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.capability.report import Inputs, collect, digest, fingerprint
from kaalia.errors import HostError, WorkloadError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import Disk, Engine, Gpu, MachineReport, Memory, Missing, PortRange
from kaalia.model.volume import VolumeBackend
from kaalia.units import GIB
from kaalia.wire import document
from tests.capability.conftest import MakeProbe
from tests.support.builders import build_gpus, build_report
from tests.support.clock import START
from tests.support.fake_nvidia.profiles import gpu_uuid, machine
from tests.support.sysfs import write_files

PORTS = PortRange(40000, 40799)
NO_DRIVER = NvmlProbe(env={"PATH": os.environ["PATH"]})


def engine_at(data_root: Path) -> Engine:
    return Engine("27.3.1", "1.47", "overlay2", str(data_root), "2", True, False, "none")


async def engine_down() -> Engine:
    raise WorkloadError("engine_unavailable", "cannot reach Docker at unix:///nowhere: no such file")


def reasons(report: MachineReport) -> dict[str, str]:
    return {entry.field: entry.reason for entry in report.missing}


async def test_reports_this_machine_without_gpu(tmp_path: Path) -> None:
    async def engine() -> Engine:
        return engine_at(tmp_path)

    report = await collect(Inputs(NO_DRIVER, engine, PORTS), START)

    assert report.collected_at == START
    assert (report.gpus, report.driver) == ((), None)
    assert "driver" in reasons(report)
    assert report.cpu.logical_cores == os.cpu_count()
    assert report.memory.total_bytes >= report.memory.available_bytes > 0
    assert report.engine == engine_at(tmp_path)
    assert report.disk is not None
    assert report.disk.path == str(tmp_path)
    assert report.disk.total_bytes >= report.disk.free_bytes > 0
    assert report.system.hostname == os.uname().nodename
    assert report.network.port_range == PORTS


async def test_every_absent_field_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()

    report = await collect(Inputs(NO_DRIVER, engine_down, PORTS, root=tmp_path / "nothing"), START)

    assert set(reasons(report)) == {
        "cpu.base_ghz",
        "cpu.flags",
        "cpu.max_ghz",
        "cpu.model",
        "disk",
        "driver",
        "engine",
        "network.public_ip",
        "system.board",
        "system.boot_id",
        "system.os_name",
    }
    assert all(reasons(report).values())
    assert (report.cpu.model, report.cpu.has_avx, report.system.board, report.network.public_ip) == (None,) * 4


async def test_an_engine_that_is_down_hides_nothing_else(simulated: MakeProbe) -> None:
    report = await collect(Inputs(simulated(machine("2xRTX_4090")), engine_down, PORTS), START)

    assert (report.engine, report.disk) == (None, None)
    assert reasons(report)["engine"] == "cannot reach Docker at unix:///nowhere: no such file"
    assert "does not answer" in reasons(report)["disk"]
    assert len(report.gpus) == 2


async def test_a_data_root_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    async def engine() -> Engine:
        return engine_at(tmp_path / "gone")

    report = await collect(Inputs(NO_DRIVER, engine, PORTS), START)

    assert report.disk is None
    assert "No such file" in reasons(report)["disk"]


async def test_how_volumes_are_enforced_is_reported_or_missing_with_a_reason(tmp_path: Path) -> None:
    async def engine() -> Engine:
        return engine_at(tmp_path)

    async def loop(data_root: str) -> VolumeBackend:
        assert data_root == str(tmp_path)
        return VolumeBackend.LOOP

    async def unreadable(data_root: str) -> VolumeBackend:
        raise HostError("command_failed", f"cannot run `df {data_root}`")

    told = await collect(Inputs(NO_DRIVER, engine, PORTS, volume_backend=loop), START)
    untold = await collect(Inputs(NO_DRIVER, engine, PORTS, volume_backend=unreadable), START)

    assert told.disk is not None
    assert told.disk.volume_backend is VolumeBackend.LOOP
    assert document.decode(MachineReport, document.encode(told)) == told
    assert untold.disk is not None
    assert untold.disk.volume_backend is None
    assert "cannot run `df" in reasons(untold)["disk.volume_backend"]


async def test_simulated_gpus_are_marked(simulated: MakeProbe) -> None:
    report = await collect(Inputs(simulated(machine("8xH100", seed="other")), engine_down, PORTS), START)

    assert [gpu.uuid for gpu in report.gpus] == [gpu_uuid(index, "other") for index in range(8)]
    assert report.driver is not None
    assert report.driver.simulated


@pytest.mark.parametrize(("address", "seen"), [("203.0.113.7", "203.0.113.7"), ("2001:db8::7", "2001:db8::7")])
async def test_the_configured_address_wins(address: str, seen: str) -> None:
    report = await collect(Inputs(NO_DRIVER, engine_down, PORTS, public_ip=address), START)

    assert report.network.public_ip == seen
    assert "network.public_ip" not in reasons(report)


async def test_reads_the_given_root(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: AMD EPYC 9654\nflags\t: fpu avx\nFeatures\t: fp",
            "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
            "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"',
            "sys/class/dmi/id/board_vendor": "Supermicro",
            "sys/class/dmi/id/board_name": "H13SSL-N",
        },
    )

    report = await collect(Inputs(NO_DRIVER, engine_down, PORTS, root=tmp_path), START)

    assert (report.cpu.model, report.system.board) == ("AMD EPYC 9654", "Supermicro H13SSL-N")
    assert (report.system.os_name, report.system.boot_id[:8]) == ("Ubuntu 24.04.1 LTS", "11111111")


async def test_the_wire_keeps_a_real_report(simulated: MakeProbe) -> None:
    report = await collect(Inputs(simulated(machine("1xRTX_3090+1xT4")), engine_down, PORTS), START)

    assert document.decode(MachineReport, document.encode(report)) == report


def with_gpu(**changes: Any) -> MachineReport:
    """A machine of two GPUs, the first of them changed."""
    first, second = build_gpus(2)
    return replace(build_report(gpus=2), gpus=(replace(first, **changes), second))


def test_load_heat_and_time_do_not_change_the_digest() -> None:
    report = with_gpu()
    later = replace(
        with_gpu(
            temperature_c=88,
            power_draw_w=440.0,
            sm_clock_mhz=2700,
            utilization_percent=100,
            vram_used_mb=20000,
            pci_gen_current=4,
        ),
        collected_at=START + timedelta(minutes=1),
        memory=Memory(report.memory.total_bytes, 1 * GIB),
        disk=replace(report.disk or Disk("/", 1, 1), free_bytes=1),
        system=replace(report.system, booted_at=report.system.booted_at + timedelta(seconds=1)),
    )

    assert digest(later) == digest(report)
    assert fingerprint(later) == fingerprint(report)


@pytest.mark.parametrize(
    "changed",
    [
        with_gpu(pci_width_current=4),
        with_gpu(power_limit_w=300.0),
        with_gpu(uuid="GPU-other"),
        build_report(gpus=1),
        build_report(gpus=2, engine=None),
        build_report(gpus=2, missing=(Missing("engine", "down"),)),
        build_report(gpus=2, agent_version="9.9.9"),
        build_report(gpus=2, memory=Memory(128 * GIB, 1)),
    ],
    ids=["narrower link", "power limit", "other gpu", "gpu gone", "no engine", "missing", "upgrade", "memory"],
)
def test_what_stays_changes_the_digest(changed: MachineReport) -> None:
    assert digest(changed) != digest(build_report(gpus=2))


def test_the_fingerprint_is_of_the_hardware_only() -> None:
    report = build_report(gpus=2)

    reinstalled = replace(
        report,
        system=replace(report.system, hostname="new", os_name="other", kernel="7.0", boot_id="boot-2"),
        disk=None,
        engine=None,
        agent_version="2.0",
        gpus=tuple(reversed(report.gpus)),
    )

    assert fingerprint(reinstalled) == fingerprint(report)
    assert len(fingerprint(report)) == 64


@pytest.mark.parametrize(
    "other",
    [
        build_report(gpus=1),
        build_report(gpus=2, cpu=replace(build_report().cpu, model="AMD EPYC 9654")),
        build_report(gpus=2, system=replace(build_report().system, board="another")),
        with_gpu(uuid="GPU-swapped"),
    ],
    ids=["gpu removed", "other cpu", "other board", "gpu swapped"],
)
def test_other_hardware_has_another_fingerprint(other: MachineReport) -> None:
    assert fingerprint(other) != fingerprint(build_report(gpus=2))


def test_two_simulated_machines_differ() -> None:
    first, second = (
        replace(build_report(gpus=0), gpus=(Gpu(gpu_uuid(0, seed), 0, "NVIDIA GeForce RTX 4090", 24564),))
        for seed in ("a", "b")
    )

    assert fingerprint(first) != fingerprint(second)
