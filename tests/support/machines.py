"""Capability reports of machines that do not exist."""

from datetime import UTC, datetime
from typing import Any

from kaalia.model.machine import Cpu, Disk, Engine, Gpu, GpuDriver, MachineReport, Memory, Network, PortRange, System
from kaalia.units import GB, GIB


def machine_report(gpus: int = 8, gpu_name: str = "NVIDIA GeForce RTX 4090", **changes: Any) -> MachineReport:
    """A machine with as many RTX 4090 of 24 GiB, 64 cores, 256 GiB of memory, 1000 GB of disk."""
    cards = tuple(
        Gpu(
            uuid=f"GPU-{index:08d}",
            index=index,
            name=gpu_name,
            vram_mb=24564,
            pci_address=f"0000:{index + 1:02x}:00.0",
            pci_gen_max=4,
            pci_gen_current=4,
            pci_width_max=16,
            pci_width_current=16,
            power_limit_w=450.0,
            compute_capability=(8, 9),
            temperature_limit_c=90,
            display_active=False,
        )
        for index in range(gpus)
    )
    fields: dict[str, Any] = {
        "collected_at": datetime(2026, 1, 1, 12, 0, tzinfo=UTC),
        "agent_version": "0.1.0",
        "system": System(
            hostname="rig-1",
            os_name="Ubuntu 22.04.5 LTS",
            kernel="6.8.0",
            board="ROMED8-2T",
            boot_id="boot-1",
            booted_at=datetime(2025, 12, 1, tzinfo=UTC),
        ),
        "cpu": Cpu(
            model="AMD EPYC 7763 64-Core Processor",
            architecture="amd64",
            logical_cores=64,
            physical_cores=32,
            max_ghz=3.5,
            has_avx=True,
        ),
        "memory": Memory(total_bytes=256 * GIB, available_bytes=250 * GIB),
        "network": Network(public_ip="203.0.113.7", local_ips=("10.0.0.5",), port_range=PortRange(40000, 40999)),
        "gpus": cards,
        "driver": GpuDriver(version="550.54.15", cuda_version="12.4") if gpus else None,
        "disk": Disk(
            path="/var/lib/docker",
            total_bytes=1200 * GB,
            free_bytes=1000 * GB,
            filesystem="xfs",
            device="/dev/nvme0n1",
            model="Samsung 990",
        ),
        "engine": Engine(
            version="27.0",
            api_version="1.46",
            storage_driver="overlay2",
            data_root="/var/lib/docker",
            cgroup_version="2",
            live_restore=True,
            enforces_disk_size=True,
            gpu_mode="device_request",
        ),
    }
    return MachineReport(**{**fields, **changes})
