"""The full report of simulated and real machines: complete, with a reason for each gap, and as its schema says."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from kaalia.capability import inventory
from kaalia.capability.report import Inputs, survey
from kaalia.host import drives as host_drives
from kaalia.host import iommu, local_drives
from kaalia.host.nvml import NvmlProbe
from kaalia.host.nvml_parts import PartsReading
from kaalia.model.inventory import Drive, Inventory
from kaalia.model.machine import Engine, PortRange
from kaalia.store import inventory as rows
from kaalia.store.database import Database
from kaalia.wire import document
from kaalia.wire import report as full
from kaalia.wire.report_schema import schema
from tests.capability.conftest import MakeProbe
from tests.support.clock import START
from tests.support.fake_nvidia.profiles import fault, machine, setting, without
from tests.support.sysfs import block_device, gpu_on_bus, link, pci_device, write_files

PROFILES = ["8xRTX_4090", "8xH100", "1xRTX_3090+1xRTX_5060Ti", "1xT4"]
VALID = Draft202012Validator(schema(), format_checker=FormatChecker())


async def engine() -> Engine:
    return Engine("27.3.1", "1.47", "overlay2", "/", "2", True, False, "none")


async def read(probe: NvmlProbe, root: Path = Path("/")) -> tuple[dict[str, Any], Inventory]:
    """The document as it is printed, and the inventory in it."""
    found = await survey(Inputs(probe, engine, PortRange(40000, 40799), root=root), START, with_parts=True)
    assert found.parts is not None
    listed = await inventory.collect(found.report, found.parts, root, START)
    report = inventory.with_parts(found.report, listed.gpus)
    told: dict[str, Any] = json.loads(json.dumps(full.encode(report, listed)))
    return told, listed


def values(section: dict[str, Any], *names: str) -> list[Any]:
    return [section[name]["value"] for name in names]


def reason(section: dict[str, Any], name: str) -> str:
    assert section[name]["value"] is None
    return str(section[name]["reason"])


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("spec", PROFILES)
async def test_each_profile_is_valid(simulated: MakeProbe, spec: str) -> None:
    told, _ = await read(simulated(machine(spec)))

    VALID.validate(told)
    assert len(told["gpus"]) == sum(int(part.partition("x")[0]) for part in spec.split("+"))
    count = len(told["gpus"])
    assert len(told["gpu_pairs"]) == count * (count - 1) // 2
    unread = [entry for entry in told["missing"] if not entry["reason"]]
    assert not unread


async def test_this_machine_is_valid_without_any_gpu() -> None:
    told, _ = await read(NvmlProbe(env={"PATH": os.environ["PATH"]}))

    VALID.validate(told)
    assert told["gpus"] == []
    assert told["cpu"]["logical_cores"]["value"] == os.cpu_count()
    assert "no NVIDIA driver" in reason(told["driver"], "version")


async def test_h100_with_nvlink(simulated: MakeProbe) -> None:
    told, _ = await read(simulated(machine("8xH100")))

    gpu, offer = told["gpus"][7], told["offer"]
    assert values(gpu, "architecture", "cores", "memory_bus_bits", "bar1_total_mb") == ["Hopper", 16896, 5120, 131072]
    assert values(gpu, "nvlinks", "nvlinks_max", "nvlink_version", "nvlink_gbps") == [18, 18, 4, 450.0]
    assert values(gpu, "fabric_state", "ecc_mode", "mig_mode") == ["completed", True, False]
    assert values(gpu, "power_min_w", "power_max_w", "power_default_w") == [200, 700, 700]
    assert values(gpu, "pci_device_id", "compute_capability") == ["2330:10de", "9.0"]
    assert len(gpu["serial_sha256"]["value"]) == 64
    assert values(told["gpu_pairs"][0], "first", "second", "path", "read", "write") == [0, 1, "NODE", "ok", "ok"]
    assert values(told["gpu_pairs"][6], "first", "second", "path") == [0, 7, "SYS"]
    assert values(offer, "bw_nvlink", "total_flops", "gpu_mem_bw", "compute_cap") == [450.0, 536.0, 3352.3, 900]
    assert "data sheet" in gpu["fp32_tflops"]["method"]
    assert "NVML" in gpu["memory_gbps"]["method"]


async def test_models_that_differ_keep_their_own(simulated: MakeProbe) -> None:
    told, _ = await read(simulated(machine("1xRTX_3090+1xRTX_5060Ti")))

    big, small = told["gpus"]
    assert values(big, "memory_gbps", "fp32_tflops", "pci_width_max") == [936.1, 35.6, 16]
    assert values(small, "memory_gbps", "fp32_tflops", "pci_width_max") == [448.0, 23.7, 8]
    assert values(told["offer"], "gpu_name", "gpu_lanes", "total_flops", "gpu_mem_bw", "num_gpus", "gpu_total_ram") == [
        *("RTX 3090 + RTX 5060 Ti (simulated)", 8, 47.4, 448.0, 2, 24576 + 16311)
    ]
    assert reason(big, "serial_sha256") == "NVMLError_NotSupported"
    assert values(told["gpu_pairs"][0], "path", "read") == ["SYS", "chipset not supported"]


async def test_a_board_number_stays_where_it_is_read(simulated: MakeProbe) -> None:
    text = setting(0, "serial", "1322621030123") + machine("1xT4")
    told, _ = await read(simulated(text))

    assert "1322621030123" not in json.dumps(told)


async def test_what_one_call_refuses_hides_nothing_else(simulated: MakeProbe) -> None:
    complete, _ = await read(simulated(machine("2xH100")))
    told, _ = await read(simulated(machine("2xH100") + fault("nvmlDeviceGetVbiosVersion", "error 999", gpu=1)))

    VALID.validate(told)
    assert reason(told["gpus"][1], "vbios_version") == "NVMLError_Unknown"
    told["gpus"][1]["vbios_version"] = complete["gpus"][1]["vbios_version"]
    assert told["gpus"] == complete["gpus"]


async def test_a_driver_that_hangs_at_the_inventory_has_told_the_rest(
    simulated: MakeProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = simulated(machine("2xRTX_4090") + fault("nvmlDeviceGetBrand", "hang"))
    monkeypatch.setattr(probe._surveying, "usual_s", 3.0)

    told, _ = await read(probe)

    VALID.validate(told)
    assert told["gpus"][1]["vram_mb"]["value"] == 24564
    assert "did not answer within" in reason(told["gpus"][1], "cores")


async def test_an_older_driver_tells_less(simulated: MakeProbe) -> None:
    told, _ = await read(simulated(without(without(machine("1xRTX_4090"), "cores"), "bus_bits")))

    assert reason(told["gpus"][0], "cores") == "NVMLError_NotSupported"
    assert values(told["gpus"][0], "memory_gbps", "fp32_tflops") == [1008.0, 82.6]
    assert "data sheet" in told["gpus"][0]["memory_gbps"]["method"]


async def test_before_the_inventory_is_read_each_gap_says_so(simulated: MakeProbe) -> None:
    found = await survey(Inputs(simulated(machine("1xT4")), engine, PortRange(1, 2)), START)

    told = json.loads(json.dumps(full.encode(found.report, None)))

    VALID.validate(told)
    assert reason(told["gpus"][0], "vbios_version") == "the inventory has not been read yet"
    assert told["inventory_read_at"] is None


def machine_at(root: Path) -> None:
    cpu = {"topology/physical_package_id": "0", "topology/thread_siblings_list": "0,2"}
    for number in range(4):
        write_files(
            root / f"sys/devices/system/cpu/cpu{number}", {**cpu, "topology/physical_package_id": str(number % 2)}
        )
    write_files(
        root / "sys/devices/system/cpu/cpu0/cache",
        {"index0/level": "1", "index0/type": "Data", "index0/size": "32K", "index0/shared_cpu_list": "0,2"},
    )
    write_files(
        root,
        {
            "proc/cpuinfo": "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nstepping\t: 7\n"
            "model name\t: Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz\nmicrocode\t: 0x5003604\ncpu MHz\t\t: 3500.017\n"
            "flags\t\t: avx vmx\n\nprocessor\t: 1",
            "proc/meminfo": "MemTotal: 100 kB\nSwapTotal:     2048 kB",
            "proc/cmdline": "root=/dev/sda intel_iommu=on iommu=pt quiet",
            "sys/devices/system/node/node0/cpulist": "0,2",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       1024 kB",
            "sys/devices/system/node/node1/cpulist": "1,3",
            "sys/module/nvidia_drm/parameters/modeset": "Y",
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20",
        },
    )


async def test_sysfs_is_read_in_full(tmp_path: Path) -> None:
    machine_at(tmp_path)
    told, _ = await read(NvmlProbe(env={}), tmp_path)

    VALID.validate(told)
    cpu, virtual = told["cpu"], told["iommu"]
    assert values(cpu, "vendor", "sockets", "threads_per_core", "base_ghz", "current_ghz") == [
        *("GenuineIntel", 2, 2, 2.9, 3.5)
    ]
    assert cpu["caches"]["value"] == [{"level": 1, "kind": "data", "bytes_each": 32768, "count": 2}]
    assert [node["cpus"] for node in cpu["numa_nodes"]["value"]] == ["0,2", "1,3"]
    assert cpu["numa_nodes"]["value"][0]["memory_bytes"] == 1024 * 1024
    assert "no cpufreq driver" in reason(cpu, "max_ghz")
    assert values(told["memory"], "swap_bytes") == [2048 * 1024]
    assert "the firmware shows no table" in reason(told["memory"], "modules")
    assert values(virtual, "enabled", "kernel_arguments", "cpu_virtualization", "drm_modeset") == [
        *(False, "intel_iommu=on iommu=pt", "vmx", True)
    ]
    assert values(told["software"], "kernel_module", "kernel_module_open") == ["570.133.20", True]


async def test_drives_are_told_apart_and_the_one_with_docker_is_marked(tmp_path: Path) -> None:
    for name, rotational, model in (("nvme0n1", "0", "Samsung 990"), ("sda", "1", "ST4000")):
        disk = block_device(tmp_path, f"pci/block/{name}", model)
        write_files(disk, {"size": "2048", "queue/rotational": rotational})
        link(tmp_path / "sys/block" / name, disk)
    block_device(tmp_path, "pci/block/nvme0n1/nvme0n1p2", partition=True)
    write_files(tmp_path, {"sys/block/loop0/size": "8"})
    found = await survey(Inputs(NvmlProbe(env={}), engine, PortRange(1, 2), root=tmp_path), START)
    assert found.report.disk is not None
    report = replace(found.report, disk=replace(found.report.disk, device="/dev/nvme0n1p2"))

    listed = await inventory.collect(report, PartsReading(), tmp_path, START)
    drives = json.loads(json.dumps(full.encode(report, listed)))["drives"]

    assert [values(one, "name", "kind", "model", "total_bytes", "holds_docker") for one in drives] == [
        ["nvme0n1", "nvme", "Samsung 990", 1 << 20, True],
        ["sda", "hdd", "ST4000", 1 << 20, False],
    ]
    assert reason(drives[0], "wear_percent")


def test_what_a_drive_tells_of_itself_is_joined_by_its_controller() -> None:
    told = (
        host_drives.Drive("/dev/sda", used_percent=9),
        host_drives.Drive("/dev/nvme0", "x", True, 0, 3, 0, 41, 9000),
    )

    found = local_drives.with_health(Drive("nvme0n1", "nvme", 1 << 40), told)

    assert found is not None
    assert (found.passed, found.wear_percent, found.temperature_c, found.power_on_hours) == (True, 3, 41, 9000)
    assert local_drives.with_health(Drive("nvme1n1", "nvme", 1 << 40), told) is None


def test_a_group_with_another_device_is_not_alone(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0", numa_node="1", local_cpulist="16-31")
    pci_device(tmp_path, "0000:00:01.0", vendor="0x8086", kind="0x060400")
    pci_device(tmp_path, "0000:02:00.0", vendor="0x8086", kind="0x020000")
    devices = tmp_path / "sys/bus/pci/devices"
    link(devices / "0000:01:00.0/iommu_group", tmp_path / "sys/kernel/iommu_groups/7")
    group = {"0000:01:00.0", "0000:01:00.1", "0000:00:01.0"}
    for name in group:
        (tmp_path / "sys/kernel/iommu_groups/7/devices" / name).mkdir(parents=True)

    assert iommu.group("0000:01:00.0", tmp_path) == (7, True)
    (tmp_path / "sys/kernel/iommu_groups/7/devices/0000:02:00.0").mkdir()
    assert iommu.group("0000:01:00.0", tmp_path) == (7, False)
    assert iommu.near("0000:01:00.0", tmp_path) == (1, "16-31")
    assert iommu.group("0000:02:00.0", tmp_path) == (None, None)


async def test_what_is_stored_is_what_was_read(store: Database, simulated: MakeProbe) -> None:
    _, listed = await read(simulated(machine("8xH100")))

    await store.transaction(lambda tx: rows.put(tx, listed))

    text = await store.read(rows.get_json)
    assert text is not None
    assert document.decode(Inventory, text) == listed
