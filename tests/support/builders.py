"""Small true-to-life documents for tests: a machine's report, a contract, a workload's status."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.speed import METHOD
from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.model.machine import Cpu, Disk, Engine, Gpu, GpuDriver, MachineReport, Memory, Network, PortRange, System
from kaalia.model.speed import Confidence, Figure, MeasuredSpeed
from kaalia.model.workload import (
    LaunchMode,
    PortBinding,
    PortRequest,
    Protocol,
    WorkloadSpec,
    WorkloadState,
    WorkloadStatus,
)
from kaalia.units import GIB
from tests.support.clock import START


def build_gpus(count: int, name: str = "NVIDIA GeForce RTX 4090", vram_mb: int = 24564) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            uuid=f"GPU-{index:08d}-0000-0000-0000-000000000000",
            index=index,
            name=name,
            vram_mb=vram_mb,
            pci_address=f"0000:{index + 1:02x}:00.0",
            power_limit_w=450.0,
            temperature_c=41,
        )
        for index in range(count)
    )


def build_report(at: datetime = START, gpus: int = 2, **changes: Any) -> MachineReport:
    report = MachineReport(
        collected_at=at,
        agent_version="0.1.0",
        system=System("rack-7", "Debian GNU/Linux 12", "6.1.0", "ASUS Pro WS", "boot-1", at - timedelta(days=3)),
        cpu=Cpu("AMD EPYC 7443P", "amd64", 48, 24, 4.0, True),
        memory=Memory(256 * GIB, 240 * GIB),
        network=Network("203.0.113.7", ("192.168.1.20",), PortRange(40000, 40799)),
        gpus=build_gpus(gpus),
        driver=GpuDriver("550.54.14", "12.4", simulated=True) if gpus else None,
        disk=Disk("/var/lib/docker", 1000 * GIB, 800 * GIB, "btrfs", "/dev/nvme0n1p2", "Samsung 990"),
        engine=Engine("27.3.1", "1.47", "overlay2", "/var/lib/docker", "2", True, False, "device_request"),
    )
    return replace(report, **changes)


def build_contract(contract_id: int = 51, at: datetime = START, **changes: Any) -> Contract:
    spec = WorkloadSpec(
        image="docker.io/library/busybox:1.36",
        launch_mode=LaunchMode.ARGS,
        disk_bytes=16 * GIB,
        gpu_count=1,
        env=(("CONTAINER_API_KEY", "hush-hush-hush"), ("MODE", "fast")),
        ports=(PortRequest(8080),),
        onstart="echo hush-hush-hush",
    )
    contract = Contract(
        contract_id=contract_id,
        generation=1,
        kind=ContractKind.ON_DEMAND,
        desired=Desired.RUNNING,
        spec=spec,
        price_usd_per_hour=Decimal("0.40"),
        start_at=at,
        end_at=at + timedelta(days=10),
    )
    return replace(contract, **changes)


def build_volume(volume_id: int = 901, size_bytes: int = 10 * GIB, **changes: Any) -> Volume:
    return replace(Volume(volume_id, "k" * 32, size_bytes, VolumeDesired.PRESENT), **changes)


def build_status(contract_id: int = 51, at: datetime = START, **changes: Any) -> WorkloadStatus:
    status = WorkloadStatus(
        contract_id=contract_id,
        generation=1,
        state=WorkloadState.RUNNING,
        as_of=at,
        status_msg="success, running docker.io/library/busybox:1.36",
        container_id="c" * 64,
        gpu_uuids=(build_gpus(1)[0].uuid,),
        ports=(PortBinding(8080, 8080, 40011, Protocol.TCP),),
        started_at=at,
    )
    return replace(status, **changes)


def build_figure(mbps: float = 940.0) -> Figure:
    return Figure(mbps, round(mbps * 1_250_000), 8.5, 0.021, 0.0105, Confidence.HIGH, 12.5)


def build_speed(at: datetime = START, **changes: Any) -> MeasuredSpeed:
    made = MeasuredSpeed(
        at, "https://market.example", METHOD, 8, 4, build_figure(), build_figure(415.5), address="203.0.113.7"
    )
    return replace(made, **changes)
