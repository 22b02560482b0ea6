"""Who is reached by a relay, by which of its ports, and what a relay must look like to be used. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from kaalia.errors import ContractError
from kaalia.model.machine import Network, PortRange
from kaalia.model.relay import RelayForward, RelayLink
from kaalia.model.workload import LaunchMode

BLOCK_PORTS = 16
"""Of one block: eight Jupyter instances, or sixteen by ssh. A machine that needs more gets another block."""
FIRST_PORT, LAST_PORT = 1024, 65535
"""sshd lets nobody but root forward lower ones."""

SERVED = {LaunchMode.SSH: (22,), LaunchMode.JUPYTER: (8080, 22)}
"""Ports of the container on neighbouring ports of the relay: the public client adds one for ssh beside Jupyter."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")
"""The whole of an Ed25519 key in OpenSSH's form: 51 bytes in base64."""


def has_direct_ports(network: Network) -> bool:
    """Whether renters may reach the machine by itself: unless it was proven that they do not."""
    return network.public_ip is not None and (network.proven is None or network.proven.tcp > 0)


def served(mode: LaunchMode, runtype: str, has_direct: bool) -> tuple[int, ...]:
    """The container's ports to be reached by a relay: where it is asked for, and where nothing else would do."""
    is_asked = any(word.endswith("_proxy") for word in runtype.split())
    return SERVED.get(mode, ()) if is_asked or not has_direct else ()


def is_direct(runtype: str, has_direct: bool) -> bool:
    """Whether a renter who has a relay too is told the machine's own address."""
    return has_direct and not all(word.endswith("_proxy") for word in runtype.split())


def blocks(ports: PortRange) -> Iterator[PortRange]:
    """The whole blocks of a relay's range, the lowest first."""
    for first in range(ports.first, ports.last - BLOCK_PORTS + 2, BLOCK_PORTS):
        yield PortRange(first, first + BLOCK_PORTS - 1)


def choose(
    block: PortRange, taken: Collection[int], contract_id: int, container_ports: tuple[int, ...]
) -> tuple[RelayForward, ...]:
    """Neighbouring free ports of the block; () when it has none.

    Begins elsewhere for each contract: a port that was another's a moment ago is known to clients by another key.
    """
    size, wanted = len(block), len(container_ports)
    for step in range(size):
        first = block.first + (contract_id * wanted + step) % size
        ports = range(first, first + wanted)
        if ports[-1] <= block.last and not any(port in taken for port in ports):
            pairs = zip(container_ports, ports, strict=True)
            return tuple(RelayForward(contract_id, inner, port) for inner, port in pairs)
    return ()


def kept(old: Iterable[RelayLink], new: Iterable[RelayLink], unheard: Collection[int]) -> tuple[RelayLink, ...]:
    """The new links, and the forwards of contracts that are merely not mentioned: these run on, and stay reachable."""
    links = {link.name: link for link in new}
    for link in old:
        known = links.get(link.name, replace(link, forwards=()))
        used = {forward.relay_port for forward in known.forwards}
        still = [one for one in link.forwards if one.contract_id in unheard and one.relay_port not in used]
        if still:
            links[link.name] = replace(known, forwards=(*known.forwards, *still))
    return tuple(links.values())


def parse_ports(text: str) -> PortRange:
    """`20000-39999`. Raises ContractError `relay_ports_invalid`."""
    first, dash, last = text.strip().partition("-")
    remedy = f"write FIRST-LAST, from {FIRST_PORT} to {LAST_PORT}, such as 20000-39999"
    if not (dash and first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal() and len(text) < 16):
        raise _ports_invalid(f"cannot use ports {text[:40]!r}: they are not FIRST-LAST", remedy)
    ports = PortRange(int(first), int(last))
    if ports.first > ports.last:
        raise _ports_invalid(f"cannot use ports {text}: {first} is above {last}", remedy)
    if ports.first < FIRST_PORT or ports.last > LAST_PORT:
        raise _ports_invalid(f"cannot use ports {text}: sshd forwards {FIRST_PORT} to {LAST_PORT} only", remedy)
    if len(ports) < BLOCK_PORTS:
        message = f"cannot use ports {text}: {len(ports)} are fewer than the {BLOCK_PORTS} of one machine"
        raise _ports_invalid(message, remedy)
    return ports


def check_apart(listen_port: int, ports: PortRange) -> None:
    """Raises ContractError `relay_ports_invalid`: sshd cannot listen on a port that it gives away."""
    if listen_port in ports:
        raise _ports_invalid(
            f"cannot use ports {ports.first}-{ports.last}: the relay itself listens on {listen_port}",
            "choose a port outside of the range for --listen",
        )


def check_name(name: str) -> str:
    """Raises ContractError `relay_invalid`."""
    return _checked("name", name, _NAME, "use small letters, digits and dashes, at most 32")


def check_host(host: str) -> str:
    """Raises ContractError `relay_invalid`."""
    return _checked("host", host, _HOST, "use a host name or an IP address")


def check_key(key: str) -> str:
    """A public key as `ssh-ed25519 AAAA...`. Raises ContractError `relay_invalid`."""
    return _checked("key", key, _KEY, "use an Ed25519 key, without a comment")


def check_user(user: str) -> str:
    """Raises ContractError `relay_invalid`."""
    return _checked("user", user, _USER, "use the name of a user of the relay's machine")


def check_link(link: RelayLink) -> None:
    """All of it becomes arguments of a command. Raises ContractError `relay_invalid` for what cannot be meant."""
    check_name(link.relay)
    check_host(link.host)
    check_user(link.user)
    check_key(link.host_key)
    block = PortRange(link.first_port, link.last_port)
    ports = [forward.relay_port for forward in link.forwards]
    is_block = FIRST_PORT <= block.first <= block.last <= LAST_PORT and 0 < link.port <= LAST_PORT
    if not is_block or len(set(ports)) != len(ports) or not all(port in block for port in ports):
        raise _invalid("ports", str([link.port, block.first, block.last, *ports][:40]), "update the marketplace")


def _checked(what: str, value: str, pattern: re.Pattern[str], remedy: str) -> str:
    if not pattern.fullmatch(value):
        raise _invalid(what, value, remedy)
    return value


def _invalid(what: str, value: str, remedy: str) -> ContractError:
    return ContractError("relay_invalid", f"cannot use a relay with {what} {value[:80]!r}", remedy=remedy)


def _ports_invalid(message: str, remedy: str) -> ContractError:
    return ContractError("relay_ports_invalid", message, remedy=remedy)
