"""What a sandbox is at the engine: a network and a pause container, their names, bodies and labels. Pure.

    network `kaalia-net-SUBNET` ◀── pause container, called
        `kaalia-warm-SUBNET`      ready for any contract
        `kaalia-sandbox-CONTRACT` a contract's
        `kaalia-used-CONTRACT-ID` to be removed

The name says whose it is: the engine changes it in one stroke, while labels last as they were made.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kaalia.contracts.ports import address_in
from kaalia.runtime.labels import encode_sandbox, hostname_of, sandbox_of
from kaalia.runtime.sandbox.ipv6 import addressed
from kaalia.runtime.sandbox.pause import PATH

_WARM, _TAKEN, _USED, _NET = "kaalia-warm-", "kaalia-sandbox-", "kaalia-used-", "kaalia-net-"
_JOINS = "container:"
_MEMORY_BYTES = 64 * 1024**2
"""For runc, which copies itself into memory first; the pause itself needs a page or two."""


class Use(StrEnum):
    WARM = "warm"
    TAKEN = "taken"
    USED = "used"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause container as the engine lists it. What it has of its network is "" unless it runs, or never ran."""

    pause_id: str
    use: Use
    contract_id: int | None
    """Whose it is."""
    was_of: int | None
    """Whose it was, to be removed."""
    subnet: str
    hostname: str
    network_id: str
    address: str
    subnet6: str
    is_running: bool


def taken_name(contract_id: int) -> str:
    """The name of the pause container that a contract's workload joins."""
    return f"{_TAKEN}{contract_id}"


def warm_name(subnet: str) -> str:
    return f"{_WARM}{_short(subnet)}"


def used_name(contract_id: int, pause_id: str) -> str:
    return f"{_USED}{contract_id}-{pause_id[:12]}"


def net_name(subnet: str) -> str:
    return f"{_NET}{_short(subnet)}"


def subnets(network: Mapping[str, Any]) -> list[str]:
    """Of IPv4: what a contract has claimed. `network`: one of the engine's list."""
    return [one for one in _all_subnets(network) if ":" not in one]


def subnet6(network: Mapping[str, Any]) -> str:
    """Of IPv6; "": none."""
    return next((one for one in _all_subnets(network) if ":" in one), "")


def _all_subnets(network: Mapping[str, Any]) -> list[str]:
    return [str(config.get("Subnet", "")) for config in ((network.get("IPAM") or {}).get("Config") or [])]


def joined(document: Mapping[str, Any]) -> str | None:
    """Id or name of the container whose network a listed or inspected one uses. The engine makes an id of a name."""
    mode = str((document.get("HostConfig") or {}).get("NetworkMode", ""))
    return mode.removeprefix(_JOINS) if mode.startswith(_JOINS) else None


def read(entry: Mapping[str, Any], machine: str) -> Pause | None:
    """A line of the engine's list; None: it is no pause container of this machine."""
    subnet = sandbox_of(entry.get("Labels"), machine)
    if subnet is None:
        return None
    use, contract_id, was_of = _use(entry)
    endpoint: Mapping[str, Any] = next(iter(((entry.get("NetworkSettings") or {}).get("Networks") or {}).values()), {})
    return Pause(
        pause_id=str(entry["Id"]),
        use=use,
        contract_id=contract_id,
        was_of=was_of,
        subnet=subnet,
        hostname=hostname_of(entry.get("Labels")),
        network_id=str(endpoint.get("NetworkID") or ""),
        address=str(endpoint.get("IPAddress") or ""),
        subnet6=_subnet6(endpoint),
        is_running=entry.get("State") == "running",
    )


def _subnet6(endpoint: Mapping[str, Any]) -> str:
    address, size = endpoint.get("GlobalIPv6Address"), endpoint.get("GlobalIPv6PrefixLen")
    return str(ipaddress.IPv6Interface(f"{address}/{size}").network) if address and size else ""


def read_all(entries: Iterable[Mapping[str, Any]], machine: str) -> list[Pause]:
    return [one for one in (read(entry, machine) for entry in entries) if one is not None]


def homes(entries: Iterable[Mapping[str, Any]], machine: str) -> dict[str, int]:
    """Whose the sandboxes in the engine's list are, by the ids of their pause containers."""
    return {one.pause_id: one.contract_id for one in read_all(entries, machine) if one.contract_id is not None}


def _use(entry: Mapping[str, Any]) -> tuple[Use, int | None, int | None]:
    """What it is for, whose it is, and whose it was. A name that kaalia did not give: to be removed."""
    for name in (str(one).lstrip("/") for one in entry.get("Names") or []):
        if name.startswith(_TAKEN) and name[len(_TAKEN) :].isdigit():
            return Use.TAKEN, int(name[len(_TAKEN) :]), None
        if name.startswith(_WARM):
            return Use.WARM, None, None
        if (owner := name.removeprefix(_USED).partition("-")[0]).isdigit():
            return Use.USED, None, int(owner)
    return Use.USED, None, None


def network_body(machine: str, subnet: str) -> dict[str, Any]:
    """Body of POST /networks/create."""
    return {
        "Name": net_name(subnet),
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": str(ipaddress.IPv4Network(subnet)[1])}]},
        "Labels": encode_sandbox(machine, subnet),
    }


def pause_body(machine: str, image: str, subnet: str, subnet6: str, hostname: str) -> dict[str, Any]:
    """Body of POST /containers/create: a container that does nothing, may do nothing, and is ended at once.

    `subnet6`: the IPv6 network that the network has; "": none.
    """
    network = net_name(subnet)
    body: dict[str, Any] = {
        "Image": image,
        "Entrypoint": [PATH],
        "Cmd": [],
        "Labels": encode_sandbox(machine, subnet, hostname),
        "StopSignal": "SIGKILL",
        "User": "65534:65534",
        "HostConfig": {
            "NetworkMode": network,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none", "Config": {}},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Memory": _MEMORY_BYTES,
            "MemorySwap": _MEMORY_BYTES,
            "PidsLimit": 64,
        },
        "NetworkingConfig": {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": address_in(subnet)}}}},
    }
    if hostname:
        body["Hostname"] = hostname
    return addressed(body, subnet6)


def _short(subnet: str) -> str:
    return subnet.partition("/")[0]
