"""Whose word on a caller's address counts, and which addresses are never tried. One place for both.

A prober opens connections for whoever asks, so it must not be led to what only its own machine or network reaches.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiohttp import web

from kaalia.errors import ConfigError
from kaalia.wire.error import ApiError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
_FORWARDED_FOR = "X-Forwarded-For"
_TRACES = (_FORWARDED_FOR, "Forwarded", "X-Real-IP")
"""What a proxy leaves in a request."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from. `is_direct`: the connection does too, and shows no trace of a proxy."""

    address: str
    is_direct: bool


def origin(request: web.BaseRequest, proxies: Sequence[Network]) -> Origin | None:
    """`proxies`: ours; only their word counts, and of it the last address that is none of theirs. None: unknown."""
    nearest, headers = _parsed(request.remote), request.headers
    if nearest is None:
        return None
    if not is_within(nearest, proxies):
        return Origin(str(nearest), is_direct=not any(name in headers for name in _TRACES))
    told = ",".join(headers.getall(_FORWARDED_FOR, [])).split(",")
    farthest: Address | None = None
    for text in reversed(told):
        farthest = _parsed(text.strip())
        if farthest is None or not is_within(farthest, proxies):
            break
    return None if farthest is None else Origin(str(farthest), is_direct=False)


def hidden() -> ApiError:
    return ApiError(
        503,
        "probe_address_unknown",
        "cannot probe: the proxy in front of this prober does not tell where the request comes from",
        remedy="its operator must let it set X-Forwarded-For",
    )


def why_not(address: Address, is_direct: bool) -> str | None:
    """Why nobody may have this address tried whose operator does not say so; None: it may be.

    A private address may be one of the caller's network only if the caller's connection comes from there: by the word
    of a proxy it could be any machine of ours.
    """
    if address.is_loopback or address.is_unspecified:
        return "it is the prober's own machine"
    if address.is_link_local or address.is_multicast or address.is_reserved:
        return "it is no address of a machine on the internet"
    if is_own(address):
        return "the prober itself has it, and from there everything looks open"
    if not address.is_global and not is_direct:
        return "it is of an inner network, and comes by a proxy"
    return None


def is_own(address: Address) -> bool:
    """This machine has it: nothing else can be bound."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as door:
            door.bind((str(address), 0))
    except OSError as error:
        # One that cannot be used for lack of sockets or of IPv6 is not tried either, some lines later.
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)
    return True


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def networks(option: str, texts: Iterable[str] | None) -> tuple[Network, ...]:
    """Of the command line. Raises ConfigError `network_invalid`."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts or ())
    except ValueError as error:
        raise ConfigError(
            "network_invalid", f"cannot use {option}: {error}", remedy="write it like 203.0.113.0/24"
        ) from error


def parse(text: str) -> Address:
    """An IPv4 address that a double-stack socket shows as IPv6, as itself. Raises ValueError."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _parsed(text: str | None) -> Address | None:
    try:
        return parse(text or "")
    except ValueError:
        return None
