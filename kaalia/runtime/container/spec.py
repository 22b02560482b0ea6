"""A placement as the Docker Engine's create bodies: a tenant's whole security baseline is on this page.

Pure. Privileged mode, host namespaces and further devices cannot be expressed here, nor host paths but for volumes and,
read-only, the access kit.
"""

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kaalia.contracts.ports import address_in
from kaalia.errors import WorkloadError
from kaalia.model.machine import Engine
from kaalia.model.workload import WorkloadSpec
from kaalia.runtime.base import BindMount, Placement
from kaalia.runtime.container.access import INIT, Kit, has_access
from kaalia.runtime.labels import Labels, encode, encode_owner

CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""What package managers, sshd and web servers need: Docker's default without NET_RAW, MKNOD and SETFCAP."""

GPU_CAPABILITIES = ("gpu", "compute", "utility")
_GPU_EXTRAS = ("compat32", "display", "graphics", "video")
"""Driver capabilities that a renter may ask for in NVIDIA_DRIVER_CAPABILITIES: more libraries, no more devices."""

_CPU_PERIOD_US = 100_000
_SHARES_PER_CORE = 1024
_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_GPU_ENV = (_VISIBLE, "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_IMEX_", "NVIDIA_MIG_")
"""Beginnings of names that a renter cannot set: with them NVIDIA's hook and runtime choose devices."""
_DEVICE_ENV = (
    "NVIDIA_IMEX_CHANNELS",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_GDRCOPY",
    "NVIDIA_GDS",
    "NVIDIA_MOFED",
    "NVIDIA_NVSWITCH",
)
"""Each of them adds devices of the machine to a container (NVIDIA Container Toolkit 1.17): memory channels between
nodes, the control of MIG, RDMA and storage. An image may set them too, so they are taken out of every container."""


def is_volume_source(mount: BindMount) -> bool:
    """The path ends as the id demands, and leads through no `..`: nothing else of the machine is ever mounted."""
    parts = mount.source.split("/")
    is_clean = mount.source.startswith("/") and not {"", ".", ".."}.intersection(parts[1:])
    return is_clean and parts[-2:] == [f"V.{mount.volume_id}", "data"]


def container_name(contract_id: int) -> str:
    return f"C.{contract_id}"


def network_name(contract_id: int) -> str:
    return f"kaalia-{contract_id}"


def fingerprint(placement: Placement) -> str:
    """SHA-256 over what defines a generation: the spec and the granted GPUs and ports.

    Shares, addresses and the end date may change while the container lives, so they are not part of it.
    """
    document = [asdict(placement.contract.spec), placement.gpu_uuids, [asdict(port) for port in placement.ports]]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def labels_of(placement: Placement) -> Labels:
    contract = placement.contract
    return Labels(
        machine=placement.machine,
        contract_id=contract.contract_id,
        generation=contract.generation,
        spec_sha256=fingerprint(placement),
        gpu_uuids=placement.gpu_uuids,
        ports=placement.ports,
        end_at=contract.end_at,
        address=address_in(placement.subnet),
    )


def network_body(placement: Placement) -> dict[str, Any]:
    """Body of POST /networks/create: the contract's own bridge on the granted subnet."""
    contract_id = placement.contract.contract_id
    subnet = ipaddress.IPv4Network(placement.subnet)
    return {
        "Name": network_name(contract_id),
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet), "Gateway": str(subnet[1])}]},
        "Labels": encode_owner(placement.machine, contract_id),
    }


def container_body(
    placement: Placement,
    engine: Engine,
    ulimits: Sequence[Mapping[str, Any]],
    kit: Kit | None = None,
    sandbox: str | None = None,
) -> dict[str, Any]:
    """Body of POST /containers/create. `kit`: None in mode args. Raises WorkloadError for what cannot be given.

    `sandbox`: the container whose network it joins, and with that the network's address and host name.
    """
    spec = placement.contract.spec
    _refuse_unsupported(placement, engine)
    body: dict[str, Any] = {
        "Image": spec.image,
        "Env": _environment(placement, engine),
        "Labels": encode(labels_of(placement)),
        "Healthcheck": {"Test": ["NONE"]},
        "ExposedPorts": {f"{port.container_port}/{port.protocol}": {} for port in placement.ports},
        "HostConfig": _host_config(placement, engine, ulimits, kit),
        "NetworkingConfig": {"EndpointsConfig": {network_name(placement.contract.contract_id): _endpoint(placement)}},
        **_command(spec),
    }
    if sandbox is not None:
        # The engine refuses these beside another container's network.
        del body["ExposedPorts"], body["NetworkingConfig"]
        body["HostConfig"]["NetworkMode"] = f"container:{sandbox}"
    elif spec.hostname:
        body["Hostname"] = spec.hostname
    return body


def _command(spec: WorkloadSpec) -> dict[str, Any]:
    if has_access(spec):
        # Root whatever the image says: sshd becomes the account that logs in, and onstart runs as the contract's user.
        return {"Entrypoint": [INIT], "Cmd": [], "User": "0:0", "StopSignal": "SIGTERM"}
    command: dict[str, Any] = {"User": spec.user} if spec.user else {}
    if spec.entrypoint:
        command["Entrypoint"] = [spec.entrypoint]
    if spec.args:
        command["Cmd"] = list(spec.args)
    return command


def _host_config(
    placement: Placement, engine: Engine, ulimits: Sequence[Mapping[str, Any]], kit: Kit | None
) -> dict[str, Any]:
    share = placement.share
    config: dict[str, Any] = {
        "NetworkMode": network_name(placement.contract.contract_id),
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": list(CAPABILITIES),
        "SecurityOpt": ["no-new-privileges"],
        "Memory": share.memory_bytes,
        "MemorySwap": share.memory_bytes,
        "CpuShares": max(2, round(share.cpu_cores * _SHARES_PER_CORE)),
        "CpuPeriod": _CPU_PERIOD_US,
        "CpuQuota": max(1000, round(share.cpu_quota_cores * _CPU_PERIOD_US)),
        "PidsLimit": share.pids,
        "ShmSize": share.shm_bytes,
        "Ulimits": list(ulimits),
    }
    if mounts := [_mount(mount) for mount in placement.mounts] + (kit.mounts() if kit else []):
        config["Mounts"] = mounts
    if kit:
        config["Tmpfs"] = kit.tmpfs()
    if engine.enforces_disk_size:
        config["StorageOpt"] = {"size": str(placement.contract.spec.disk_bytes)}
    if placement.gpu_uuids:
        config["DeviceRequests"] = [_device_request(placement, engine)]
    return config


def _endpoint(placement: Placement) -> dict[str, Any]:
    """A fixed address: `runtime.sandbox.ports` leads the ports to it, and the engine publishes none."""
    return {"IPAMConfig": {"IPv4Address": address_in(placement.subnet)}}


def _mount(mount: BindMount) -> dict[str, Any]:
    """Of type bind, which the engine refuses when the source is not there, rather than to make it.

    Slave: nothing that a container mounts reaches the machine; the engine wants this below its own data root.
    """
    bind = {"Propagation": "rslave", "CreateMountpoint": False}
    return {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": False, "BindOptions": bind}


def _device_request(placement: Placement, engine: Engine) -> dict[str, Any]:
    if engine.gpu_mode == "cdi":
        return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={uuid}" for uuid in placement.gpu_uuids]}
    # Capabilities are always explicit: otherwise the tenant's own environment would decide them.
    wanted = dict(placement.env).get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")
    extras = [extra for extra in _GPU_EXTRAS if extra in wanted or "all" in wanted]
    return {"Driver": "", "DeviceIDs": list(placement.gpu_uuids), "Capabilities": [[*GPU_CAPABILITIES, *extras]]}


def _environment(placement: Placement, engine: Engine) -> list[str]:
    """The environment without the variables by which a tenant, or his image, could choose devices itself."""
    pairs = [f"{name}={value}" for name, value in placement.env]
    lines = [pair for pair in pairs if not _chooses_devices(pair.partition("=")[0])]
    if not placement.gpu_uuids or engine.gpu_mode == "cdi":
        # An image may say NVIDIA_VISIBLE_DEVICES=all, which a default nvidia runtime would obey.
        lines.append(f"{_VISIBLE}=void")
    return [*lines, *_DEVICE_ENV]  # a name alone: the engine takes it out of the image's environment


def _chooses_devices(name: str) -> bool:
    return name.startswith(_GPU_ENV) or name in _DEVICE_ENV


def _refuse_unsupported(placement: Placement, engine: Engine) -> None:
    spec = placement.contract.spec
    if placement.gpu_uuids and engine.gpu_mode == "none":
        raise WorkloadError(
            "gpu_runtime_missing",
            f"cannot give {len(placement.gpu_uuids)} GPUs to a container: the engine has neither CDI nor NVIDIA's hook",
            remedy="install the NVIDIA Container Toolkit and restart Docker",
        )
    wanted = {(mount.volume_id, mount.path) for mount in spec.volumes}
    if unmounted := wanted - {(mount.volume_id, mount.target) for mount in placement.mounts}:
        volume_id, path = min(unmounted)
        raise WorkloadError(
            "volume_unsupported",
            f"cannot mount volume {volume_id} at {path}: this machine has no volumes",
            remedy="rent without -v, or a machine with a volume offer",
        )
    if foreign := {mount.source for mount in placement.mounts if not is_volume_source(mount)}:
        raise WorkloadError(
            "mount_refused", f"cannot mount {min(foreign)}: it is no folder of a volume", remedy="report this as a bug"
        )
    if spec.networks:
        raise WorkloadError(
            "network_unsupported",
            f"cannot join network {spec.networks[0]!r}: this machine is in no cluster",
            remedy="rent without -n, or a machine of the cluster",
        )
