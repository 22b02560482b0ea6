"""Placements for tests: small shares of a machine, ready for a runtime to create."""

from dataclasses import replace
from typing import Any

from kaalia.contracts.slicing import Share
from kaalia.model.workload import LaunchMode, PortBinding, Protocol, WorkloadSpec
from kaalia.runtime.base import Placement
from kaalia.units import MIB
from tests.support.builders import build_contract
from tests.support.images import DEMO_IMAGE

MACHINE = "77@0011223344556677"
SHARE = Share(cpu_cores=0.5, cpu_quota_cores=1.0, memory_bytes=128 * MIB, shm_bytes=16 * MIB, pids=64)


def build_spec(**changes: Any) -> WorkloadSpec:
    spec = WorkloadSpec(
        image=DEMO_IMAGE,
        launch_mode=LaunchMode.ARGS,
        disk_bytes=256 * MIB,
        gpu_count=0,
        args=("sleep", "1000"),
    )
    return replace(spec, **changes)


def build_placement(
    contract_id: int = 51,
    *,
    spec: WorkloadSpec | None = None,
    generation: int = 1,
    machine: str = MACHINE,
    **changes: Any,
) -> Placement:
    spec = spec or build_spec()
    placement = Placement(
        machine=machine,
        contract=build_contract(contract_id, generation=generation, spec=spec),
        gpu_uuids=(),
        ports=(),
        subnet=f"172.28.{contract_id % 256}.0/29",
        share=SHARE,
        env=spec.env,
    )
    return replace(placement, **changes)


def build_ports(first_host_port: int, tcp: int = 0, udp: int = 0) -> tuple[PortBinding, ...]:
    """`tcp` ports from 8000 on and `udp` ports from 9000 on, at host ports from `first_host_port` on."""
    bindings = [PortBinding(8000 + n, 8000 + n, first_host_port + n, Protocol.TCP) for n in range(tcp)]
    bindings += [PortBinding(9000 + n, 9000 + n, first_host_port + tcp + n, Protocol.UDP) for n in range(udp)]
    return tuple(bindings)
