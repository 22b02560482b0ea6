"""One rented instance, as the renter's API spells it.

The rows never hold null where the public client would crash on it: `start_date` is a number, `extra_env` a list of
pairs, `ports` an object. The SSH address appears whole or not at all: the client caches a half-known one for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kaalia.contracts import relay
from kaalia.contracts.contract import Contract, ContractKind, Desired, is_expired
from kaalia.contracts.maintenance import Window, words
from kaalia.contracts.offer import Listing, bid_floor
from kaalia.contracts.pricing import Price
from kaalia.contracts.slicing import model_of
from kaalia.model.machine import Gpu, MachineReport
from kaalia.model.relay import RelayedPorts
from kaalia.model.traffic import Bytes
from kaalia.model.verification import Cause
from kaalia.model.workload import PortBinding, WorkloadState, WorkloadStatus
from kaalia.units import GB
from kaalia.wire import facts, maintenance

UNKNOWN_USAGE = -1.0
"""What the public API writes for a disk usage that nobody measured."""
GB_PER_TB = 1000
KB = 1000


@dataclass(frozen=True, slots=True)
class Instance:
    """What a row is made from. `request` is the merged create request, `terms` the listing frozen at rental."""

    contract: Contract
    status: WorkloadStatus | None
    request: Mapping[str, Any]
    label: str | None
    template_id: int | None
    template_hash_id: str | None
    template_name: str | None
    jupyter_token: str
    ask_id: int
    machine_id: int
    host_id: int
    report: MachineReport
    online: bool
    reliability: float
    verification: str
    terms: Listing
    price: Price
    windows: tuple[Window, ...] = ()
    """Maintenance of the machine that is not over."""
    relayed: RelayedPorts | None = None
    copied: str = ""
    """What is told of its newest copy."""
    asides: tuple[Cause, ...] = ()
    """What its machine says of it alone."""


@dataclass(frozen=True, slots=True)
class States:
    """The four state words of a row."""

    intended: str
    actual: str | None
    current: str
    following: str


def encode(row: Instance, now: datetime) -> dict[str, Any]:
    """The JSON object of `show instance`. Sizes in GB and MB, money in $/h, times in epoch seconds."""
    machine = facts.encode(replace(row.report, gpus=_siblings(row)))
    return {
        **machine,
        **_identity(row),
        **_state(row, now),
        **_image(row),
        **_network(row),
        **_share(row, machine),
        **_money(row),
    }


def traffic(charged: Bytes) -> dict[str, Any]:
    """In kilobytes of 1000 bytes, as the public API is seen to count them."""
    return {"inet_up_billed": charged.up / KB, "inet_down_billed": charged.down / KB}


def states(contract: Contract, status: WorkloadStatus | None, online: bool, now: datetime) -> States:
    """What was asked, what is, and what comes next, in the words that clients poll for."""
    wants_to_run = contract.desired is Desired.RUNNING and not is_expired(contract, now)
    intended = "running" if wants_to_run else "stopped"
    actual = _actual(contract, status, wants_to_run)
    current = "running" if actual in _HOLDS_THE_MACHINE else "stopped"
    if actual is None or (status is not None and status.state in _NEVER_CAME_UP):
        current = "unloaded"
    return States(intended, actual if online else "offline", current, intended)


_ACTUAL = {
    WorkloadState.REJECTED: "exited",
    WorkloadState.PULLING: "loading",
    WorkloadState.CREATING: "created",
    WorkloadState.STARTING: "loading",
    WorkloadState.RUNNING: "running",
    WorkloadState.STOPPING: "stopping",
    WorkloadState.STOPPED: "stopped",
    WorkloadState.EXITED: "exited",
    WorkloadState.FAILED: "exited",
    WorkloadState.REMOVING: "stopping",
    WorkloadState.ENDED: "stopped",
    WorkloadState.UNKNOWN: "unknown",
}
"""Pollers are told that `exited` never becomes `running` by itself: so REJECTED and FAILED end their waiting."""
_HOLDS_THE_MACHINE = ("created", "loading", "running", "rebooting", "recycling", "stopping", "exited", "unknown")
_NEVER_CAME_UP = (WorkloadState.REJECTED, WorkloadState.FAILED)
_IN_A_REBOOT = (WorkloadState.STARTING, WorkloadState.RUNNING, WorkloadState.STOPPING, WorkloadState.STOPPED)


_IN_A_RECYCLE = (
    *(WorkloadState.RUNNING, WorkloadState.STOPPING, WorkloadState.REMOVING, WorkloadState.PULLING),
    *(WorkloadState.EXITED, WorkloadState.FAILED, WorkloadState.REJECTED),
)
"""Not what waits for its GPUs, or for an engine that does not answer."""


def _actual(contract: Contract, status: WorkloadStatus | None, wants_to_run: bool) -> str | None:
    if status is None:
        return None
    if status.state is WorkloadState.WAITING:
        # A container that ran before waits for its GPUs; one that never ran is still being provisioned.
        return None if status.started_at is None and status.container_id is None else "stopped"
    if wants_to_run and status.answered < contract.generation and status.state in _IN_A_RECYCLE:
        return "recycling"
    if wants_to_run and status.restarts_done < contract.restart_count and status.state in _IN_A_REBOOT:
        return "rebooting"
    return _ACTUAL[status.state]


def _identity(row: Instance) -> dict[str, Any]:
    return {
        "id": row.contract.contract_id,
        "ask_contract_id": row.ask_id,
        "machine_id": row.machine_id,
        "host_id": row.host_id,
        "bundle_id": row.ask_id,
        "label": row.label,
        "template_id": row.template_id,
        "template_hash_id": row.template_hash_id,
        "template_name": row.template_name,
        "reliability2": row.reliability,
        "verification": row.verification,
        "external": False,
        "rentable": False,
    }


def _state(row: Instance, now: datetime) -> dict[str, Any]:
    words = states(row.contract, row.status, row.online, now)
    started_at = row.status.started_at if row.status and row.status.state is WorkloadState.RUNNING else None
    start_at, end_at = row.contract.start_at, row.contract.end_at
    return {
        "actual_status": words.actual,
        "intended_status": words.intended,
        "cur_state": words.current,
        "next_state": words.following,
        "status_msg": _told(row),
        "machine_maintenance": maintenance.rows(row.machine_id, row.windows) or None,
        "start_date": start_at.timestamp(),
        "end_date": None if end_at is None else end_at.timestamp(),
        "duration": None if end_at is None else max(0.0, (end_at - now).total_seconds()),
        "uptime_mins": None if started_at is None else max(0.0, (now - started_at).total_seconds() / 60),
        "is_bid": row.contract.kind is ContractKind.INTERRUPTIBLE,
    }


def _told(row: Instance) -> str:
    """With the next maintenance. Tables of the public client show this text only, of it 40 characters, and nothing is
    told by it while all goes well."""
    notices = [f"maintenance {words(window)}" for window in row.windows[:1]]
    notices = [row.copied, *notices] if row.copied else notices
    notices += [f"{one.words} [{one.code}]" for one in row.asides if one.words not in _status_msg(row)]
    is_well = row.online and row.status is not None and row.status.state is WorkloadState.RUNNING
    parts = [*notices, _status_msg(row)] if is_well else [_status_msg(row), *notices]
    return "; ".join(part for part in parts if part)


def _status_msg(row: Instance) -> str:
    if not row.online:
        return f"machine {row.machine_id} is offline; what runs there goes on, its state here is the last one heard"
    if row.status is None:
        return f"accepted; machine {row.machine_id} has not answered yet"
    if row.status.problem is None or row.status.problem.message in row.status.status_msg:
        return row.status.status_msg
    told = (row.status.status_msg, row.status.problem.message, row.status.problem.remedy)
    return ". ".join(part for part in told if part)


def _image(row: Instance) -> dict[str, Any]:
    return {
        "image_uuid": row.contract.spec.image,
        "image_args": list(row.contract.spec.args),
        "image_runtype": row.request["runtype"],
        "extra_env": row.request["env"],
        "onstart": row.request.get("onstart"),
        "jupyter_token": row.jupyter_token,
    }


def _network(row: Instance) -> dict[str, Any]:
    public_ip = row.report.network.public_ip
    running = row.status is not None and row.status.state is WorkloadState.RUNNING
    bindings = row.status.ports if row.status is not None and running else ()
    direct_port = next((binding.host_port for binding in bindings if _port_name(binding) == "22/tcp"), None)
    relayed = row.relayed if running else None
    ssh_host, ssh_port = public_ip, direct_port
    is_direct = relay.is_direct(row.request["runtype"], relay.has_direct_ports(row.report.network))
    if relayed is not None and not is_direct:
        # The public client prefers a port that stands here: what only the relay reaches must not.
        hidden = {f"{inner}/tcp" for inner, _ in relayed.ports}
        bindings = tuple(binding for binding in bindings if _port_name(binding) not in hidden)
        ssh_host, ssh_port = relayed.host, relayed.ports[0][1]
    if ssh_host is None or ssh_port is None:
        ssh_host = ssh_port = None
    return {
        "public_ipaddr": public_ip,
        "local_ipaddrs": " ".join(row.report.network.local_ips),
        "ports": _ports(bindings, "::" if public_ip and ":" in public_ip else "0.0.0.0"),  # noqa: S104
        "ssh_host": ssh_host,
        "ssh_port": ssh_port,
        "ssh_idx": None,
        "machine_dir_ssh_port": direct_port if public_ip is not None else None,
        "direct_port_count": len(bindings),
        "direct_port_start": -1,
        "direct_port_end": -1,
        "relay_host": None if relayed is None else relayed.host,
        "relay_ports": {} if relayed is None else {f"{inner}/tcp": port for inner, port in relayed.ports},
    }


def _ports(bindings: tuple[PortBinding, ...], host_ip: str) -> dict[str, list[dict[str, str]]]:
    """As `docker inspect` spells them; an identity port stands under the number it was granted."""
    return {_port_name(binding): [{"HostIp": host_ip, "HostPort": str(binding.host_port)}] for binding in bindings}


def _port_name(binding: PortBinding) -> str:
    return f"{binding.container_port}/{binding.protocol}"


def _share(row: Instance, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The instance's part of the machine; what nobody measures is null or -1, never a guess."""
    gpus, everything = _siblings(row), row.report.gpus
    rented = row.contract.spec.gpu_count
    fraction = rented / len(everything) if everything else 1.0
    return {
        "num_gpus": rented,
        "gpu_frac": fraction,
        **{name: _part(machine[name], rented / max(len(gpus), 1)) for name in ("total_flops", "dlperf")},
        "gpu_totalram": sum(gpu.vram_mb for gpu in gpus[:rented]),
        "gpu_util": None,
        "gpu_temp": None,
        "cpu_cores_effective": row.report.cpu.logical_cores * fraction,
        "cpu_util": None,
        "mem_usage": None,
        "mem_limit": None,
        "vmem_usage": None,
        "disk_space": row.contract.spec.disk_bytes / GB,
        "disk_util": UNKNOWN_USAGE,
        "disk_usage": UNKNOWN_USAGE,
        "volume_info": [],
    }


def _siblings(row: Instance) -> tuple[Gpu, ...]:
    """The GPUs of the model that it has; all of the machine's, where that is not known."""
    had = row.status.gpu_uuids if row.status else ()
    models = {model_of(gpu) for gpu in row.report.gpus if gpu.uuid in had} | {row.contract.gpu_model}
    return tuple(gpu for gpu in row.report.gpus if model_of(gpu) in models) or row.report.gpus


def _part(whole: float | None, fraction: float) -> float | None:
    return None if whole is None else round(whole * fraction, 1)


def _money(row: Instance) -> dict[str, Any]:
    up, down = float(row.terms.price_inet_up_per_gb), float(row.terms.price_inet_down_per_gb)
    base, storage, total = float(row.price.dph_base), float(row.price.storage_total_cost), float(row.price.dph_total)
    cost = {
        "gpuCostPerHour": base,
        "diskHour": storage,
        "totalHour": total,
        "discountTotalHour": 0.0,
        "discountedTotalPerHour": total,
    }
    return {
        "dph_base": base,
        "dph_total": total,
        "min_bid": float(bid_floor(row.terms) * max(row.contract.spec.gpu_count, 1)),
        "storage_cost": float(row.terms.price_disk_per_gb_month),
        "storage_total_cost": storage,
        "inet_up_cost": up,
        "inet_down_cost": down,
        "internet_up_cost_per_tb": up * GB_PER_TB,
        "internet_down_cost_per_tb": down * GB_PER_TB,
        "credit_balance": None,
        "credit_discount": None,
        "search": cost,
        "instance": cost,
    }
