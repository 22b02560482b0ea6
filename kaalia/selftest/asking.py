"""What is asked from outside of a test container: its ports, and whether this machine reaches the place it tries."""

import asyncio
import ipaddress
import secrets
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from kaalia.contracts.canary import Target
from kaalia.host import knock
from kaalia.model.workload import Protocol

ANSWER_S = 2.0
TRIES = 3
"""UDP may lose one, and the container may just be about to listen."""
CONTROL_S = 5.0
CHALLENGE_BYTES = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}


async def answers(address: str, places: Mapping[Protocol, int], key: str) -> dict[Protocol, str]:
    """What is wrong with each port; "": it was answered by the container that knows the key."""
    found = await asyncio.gather(*(_answer(address, port, protocol, key) for protocol, port in places.items()))
    return dict(zip(places, found, strict=True))


async def _answer(address: str, port: int, protocol: Protocol, key: str) -> str:
    ask = knock.tcp if protocol is Protocol.TCP else knock.udp
    problem = ""
    for _ in range(TRIES):
        challenge = secrets.token_hex(CHALLENGE_BYTES).encode()
        try:
            told = await ask(address, port, challenge, ANSWER_S)
        except OSError as error:
            problem = str(error) or "no answer"
            await asyncio.sleep(0.1)
            continue
        if told == key.encode() + challenge:
            return ""
        problem = "somebody else answered"
    return problem


async def target(url: str, allowed: Collection[str]) -> Target:
    """Of a marketplace: what a container can be asked to reach. `allowed`: networks that the owner opened."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    try:
        found = await knock.addresses(name, port, CONTROL_S)
    except OSError as error:
        return Target(why_not=f"this machine itself does not find {name}: {error}")
    address = next((one for one in found if ":" not in one), "")
    if not address:
        return Target(why_not=f"{name} has no IPv4 address")
    where = ipaddress.ip_address(address)
    if not (where.is_global or any(where in network for network in map(ipaddress.ip_network, allowed))):
        return Target(why_not=f"the marketplace is at {address}, which tenants do not reach by rule")
    known = Target("" if name == address else name, address, port)
    return Target(why_not=why) if (why := await control(known)) else known


async def control(known: Target) -> str:
    """Why this machine itself does not reach it now; "": it does."""
    try:
        if known.name:
            await knock.addresses(known.name, known.port, CONTROL_S)
        await knock.connect(known.address, known.port, CONTROL_S)
    except OSError as error:
        return f"this machine itself does not reach {known.address}:{known.port}: {error or 'no answer'}"
    return ""
