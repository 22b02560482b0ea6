"""Which contracts have a certificate, for which names, and when it is time for a new one. Pure."""

import ipaddress
from datetime import datetime

from kaalia.contracts.contract import Contract, Desired
from kaalia.contracts.local import is_local
from kaalia.model.certificate import Certificate
from kaalia.model.workload import LaunchMode

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""For renters who come by `ssh -L 8080:localhost:8080`."""
KEPT_PARTS = 3
"""The last of so many parts of its life is left for getting another one."""


def is_wanted(contract: Contract) -> bool:
    """Jupyter is to be reached by HTTPS, by renters of a marketplace. An expired one may still be prolonged."""
    is_notebook = contract.spec.launch_mode is LaunchMode.JUPYTER and not is_local(contract.contract_id)
    return is_notebook and contract.desired is not Desired.ENDED


def names(public_ip: str | None, relay_host: str | None) -> tuple[str, ...]:
    """Where renters reach the contract's Jupyter: the machine's address, a relay, and their own end of a tunnel.

    The address is the machine's word: a host name there would be a certificate for anybody's site.
    """
    address = _address(public_ip or "")
    relay = relay_host and (_address(relay_host) or relay_host.lower())
    return tuple(dict.fromkeys([*filter(None, (address, relay)), *LOCAL_NAMES]))


def is_proven(public_ip: str | None, seen: str | None, *, is_direct: bool) -> bool:
    """The address that a machine names is its own: its signed request comes from there.

    `seen`: where from, None: unknown. `is_direct`: without a proxy. An inner address says who somebody is only in the
    network that the marketplace itself is in. On one machine with the marketplace all of loopback is the machine's.
    """
    try:
        told, found = ipaddress.ip_address(public_ip or ""), ipaddress.ip_address(seen or "")
    except ValueError:
        return False
    if told.is_loopback:
        return is_direct and found.is_loopback
    if told != found or told.is_unspecified or told.is_link_local or told.is_multicast:
        return False
    return told.is_global or is_direct


def is_due(known: Certificate | None, wanted: tuple[str, ...], now: datetime) -> bool:
    """There is none, it is for other names, or its last third has begun."""
    return known is None or known.names != wanted or now >= renewal_at(known)


def renewal_at(known: Certificate) -> datetime:
    return known.ends_at - (known.ends_at - known.begins_at) / KEPT_PARTS


def _address(name: str) -> str | None:
    """In its one form; None: it is none."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None
