"""Labels that kaalia puts on what it creates, so that all can be rebuilt from the machine after a restart.

Only an object whose labels name this machine is ours; anything else is invisible here and never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from kaalia.errors import WorkloadError
from kaalia.model.workload import PortBinding, Protocol

SCHEMA = "1"

_PREFIX = "io.kaalia."
_SCHEMA = _PREFIX + "schema"
_MACHINE = _PREFIX + "machine"
_CONTRACT = _PREFIX + "contract"
_GENERATION = _PREFIX + "generation"
_SPEC_SHA256 = _PREFIX + "spec_sha256"
_GPUS = _PREFIX + "gpus"
_PORTS = _PREFIX + "ports"
_END_AT = _PREFIX + "end_at"
_ADDRESS = _PREFIX + "address"
_SANDBOX = _PREFIX + "sandbox"
"""On the network and the pause container of a sandbox: its subnet."""
_HOSTNAME = _PREFIX + "hostname"
"""On a pause container: the name that it gives to what joins it, if one is asked for."""
_TWIN_MACHINE = _PREFIX + "twin.machine"
_TWIN_OF = _PREFIX + "twin.of"
_OWN_MACHINE = _PREFIX + "own.machine"
"""On images. A container inherits them, so they are no labels that would make it ours."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of one container say. `end_at` is the end agreed at creation; the store knows later ones."""

    machine: str
    contract_id: int
    generation: int
    spec_sha256: str
    gpu_uuids: tuple[str, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    end_at: datetime | None = None
    address: str = ""
    """In its network, to which kaalia leads its ports; "": Docker publishes them, as for an older kaalia."""


def machine_name(machine_id: int, key_id: str) -> str:
    """The owner of objects, unique on earth: the id is unique within one marketplace only, and two may share an engine.

    `key_id`: of the machine's own public key.
    """
    return f"{machine_id}@{key_id}"


def is_name_of(machine: str, key_id: str) -> bool:
    """The name was made with this key, under whichever id."""
    return machine.partition("@")[2] == key_id


def any_machine_filter() -> str:
    """The `label=` filter that selects everything that kaalia made, for any machine."""
    return _MACHINE


def machine_of(raw: Mapping[str, str] | None) -> str:
    """The machine that labels name, "" without one."""
    return (raw or {}).get(_MACHINE, "")


def machine_filter(machine: str) -> str:
    """The `label=` filter that selects everything of this machine."""
    return f"{_MACHINE}={machine}"


def contract_filter(contract_id: int) -> str:
    """The `label=` filter that selects everything of one contract."""
    return f"{_CONTRACT}={contract_id}"


def encode_owner(machine: str, contract_id: int) -> dict[str, str]:
    """Labels of an object that only needs an owner, such as a network."""
    return {_SCHEMA: SCHEMA, _MACHINE: machine, _CONTRACT: str(contract_id)}


def encode_sandbox(machine: str, subnet: str, hostname: str = "") -> dict[str, str]:
    """Labels of a sandbox, which is made before anybody knows for which contract."""
    return {_SCHEMA: SCHEMA, _MACHINE: machine, _SANDBOX: subnet, _HOSTNAME: hostname}


def sandbox_filter(subnet: str | None = None) -> str:
    """The `label=` filter that selects sandboxes: all, or the one of a subnet."""
    return _SANDBOX if subnet is None else f"{_SANDBOX}={subnet}"


def sandbox_of(raw: Mapping[str, str] | None, machine: str) -> str | None:
    """The subnet of the sandbox that an object of this machine is a part of; None: it is none.

    A workload inherits the labels of its image, which may say anything, and always has its contract's.
    """
    is_ours = raw is not None and raw.get(_MACHINE) == machine and _CONTRACT not in raw
    return (raw.get(_SANDBOX) or None) if raw is not None and is_ours else None


def hostname_of(raw: Mapping[str, str] | None) -> str:
    """The host name that a sandbox was made with, "" without one."""
    return (raw or {}).get(_HOSTNAME, "")


def encode_twin(machine: str, image_id: str) -> dict[str, str]:
    """Labels of a twin that this machine made of an image: see `runtime.container.inside`."""
    return {_TWIN_MACHINE: machine, _TWIN_OF: image_id}


def twin_filter(machine: str) -> str:
    """The `label=` filter that selects every twin of this machine."""
    return f"{_TWIN_MACHINE}={machine}"


def twin_of(raw: Mapping[str, str] | None, machine: str) -> str:
    """The id of the image that this one is a twin of; "": it is none of this machine's."""
    return raw.get(_TWIN_OF, "") if raw and raw.get(_TWIN_MACHINE) == machine else ""


def encode_own_image(machine: str) -> dict[str, str]:
    """Labels of an image that this machine made to test itself."""
    return {_OWN_MACHINE: machine}


def own_image_filter(machine: str) -> str:
    """The `label=` filter that selects every image that this machine made to test itself."""
    return f"{_OWN_MACHINE}={machine}"


def encode(labels: Labels) -> dict[str, str]:
    return {
        **encode_owner(labels.machine, labels.contract_id),
        _GENERATION: str(labels.generation),
        _SPEC_SHA256: labels.spec_sha256,
        _GPUS: ",".join(labels.gpu_uuids),
        _PORTS: ",".join(_encode_port(port) for port in labels.ports),
        _END_AT: labels.end_at.isoformat() if labels.end_at else "",
        _ADDRESS: labels.address,
    }


def owner(raw: Mapping[str, str] | None, machine: str) -> int | None:
    """The contract id that an object of this machine belongs to; None: not ours."""
    if not raw or raw.get(_MACHINE) != machine:
        return None
    try:
        return _number(raw.get(_CONTRACT, ""))
    except ValueError:
        return None


def decode(raw: Mapping[str, str] | None, machine: str) -> Labels | None:
    """The labels of a container; None: not ours.

    Raises WorkloadError `labels_unreadable` for a container that names this machine but cannot be understood: leaving
    it out would make a running workload look absent.
    """
    if not raw or raw.get(_MACHINE) != machine:
        return None
    if raw.get(_SCHEMA) != SCHEMA:
        raise _unreadable(raw, f"schema {raw.get(_SCHEMA)!r} is not {SCHEMA!r}")
    try:
        return Labels(
            machine=machine,
            contract_id=_number(raw[_CONTRACT]),
            generation=_number(raw[_GENERATION]),
            spec_sha256=raw[_SPEC_SHA256],
            gpu_uuids=tuple(_items(raw[_GPUS])),
            ports=tuple(_decode_port(item) for item in _items(raw[_PORTS])),
            end_at=_decode_time(raw[_END_AT]) if raw[_END_AT] else None,
            address=_address(raw),
        )
    except (KeyError, ValueError) as error:
        raise _unreadable(raw, f"{type(error).__name__} {error}") from error


def publication(raw: Mapping[str, str] | None, machine: str) -> tuple[int, str, tuple[PortBinding, ...]] | None:
    """Contract, address and ports of a container whose ports kaalia publishes; None: it publishes none for it.

    Of labels that `decode` refuses these may still be read: a tenant that runs keeps its ports.
    """
    try:
        number, address = owner(raw, machine), _address(raw or {})
        ports = tuple(_decode_port(item) for item in _items((raw or {}).get(_PORTS, "")))
    except ValueError:
        return None
    return (number, address, ports) if number is not None and address else None


def _address(raw: Mapping[str, str]) -> str:
    text = raw.get(_ADDRESS, "")
    return str(IPv4Address(text)) if text else ""


def _encode_port(port: PortBinding) -> str:
    return f"{port.requested}:{port.container_port}:{port.host_port}/{port.protocol}"


def _decode_port(text: str) -> PortBinding:
    numbers, protocol = text.split("/")
    requested, container_port, host_port = numbers.split(":")
    return PortBinding(_number(requested), _number(container_port), _number(host_port, 65535), Protocol(protocol))


def _decode_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return at


def _number(text: str, most: int = 2**63 - 1) -> int:
    """A count from 1, in plain digits: `int` alone takes signs, blanks and other scripts."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise ValueError(f"{text[:40]!r} is not a number from 1 to {most}")
    return int(text)


def _items(text: str) -> list[str]:
    return text.split(",") if text else []


def _unreadable(raw: Mapping[str, str], reason: str) -> WorkloadError:
    return WorkloadError(
        "labels_unreadable",
        f"cannot read the kaalia labels of contract {raw.get(_CONTRACT)!r}: {reason}",
        remedy="run a kaalia version at least as new as the one that made the container, or remove the container",
        evidence=str({key: value for key, value in raw.items() if key.startswith(_PREFIX)}),
    )
