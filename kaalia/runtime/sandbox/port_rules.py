"""How a port of this machine leads to a tenant, as rules of the packet filter. Pure.

    nat PREROUTING ──────────▶ PORTS: each port of each contract ──▶ DNAT     clients from outside
    nat OUTPUT ───▶ HERE ────▶                                                clients on this machine, loopback too
    nat POSTROUTING ─▶ SOURCES: clients at 127.0.0.1 get an address that the tenant can answer
    filter FORWARD, early ──▶ THROUGH: what came by PORTS passes, before Docker drops what it did not publish itself

Only PORTS has rules of a single contract, so it is all that a launch or a removal changes. The same for both families:
`ipv6` tells what a contract publishes there. The kernel leads nobody from ::1 to another host.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from kaalia.host.netfilter import Family, Rule, SavedRule
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox.layer import Chains
from kaalia.runtime.sandbox.rules import Enclosure, Names

_LOOPBACK = "127.0.0.0/8"
_LOOPBACK6 = "::1/128"
_LEADS = re.compile(r'-p (tcp|udp) .*--dport (\d+) .*--comment "?kaalia-(\d+)"? -j DNAT .*')


@dataclass(frozen=True, slots=True)
class Publication:
    """What kaalia publishes for one contract: ports of this machine that lead to `address` in its network."""

    enclosure: Enclosure
    address: str
    ports: tuple[PortBinding, ...]

    @property
    def contract_id(self) -> int:
        return self.enclosure.contract_id

    @property
    def places(self) -> frozenset[tuple[int, Protocol]]:
        return frozenset((one.host_port, one.protocol) for one in self.ports)


def face(one: Publication, family: Family) -> Publication | None:
    """What it publishes by this family; None: its network has none of it."""
    if family is Family.IPV4:
        return one
    where = one.enclosure
    return (
        replace(one, enclosure=replace(where, subnet=where.subnet6), address=where.address6) if where.subnet6 else None
    )


def mark(contract_id: int) -> str:
    """The comment of a contract's rules."""
    return f"kaalia-{contract_id}"


def entry(one: Publication) -> tuple[Rule, ...]:
    """A contract's part of PORTS, as iptables-save prints it."""
    return tuple(
        (
            *("-p", port.protocol, "-m", port.protocol, "--dport", str(port.host_port)),
            *("-m", "comment", "--comment", mark(one.contract_id)),
            *("-j", "DNAT", "--to-destination", f"{_host(one.address)}:{port.container_port}"),
        )
        for port in one.ports
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def ports(own: Names, pool: str, publications: Iterable[Publication]) -> Chains:
    """Whatever is addressed to this machine, but for tenants: their neighbours' ports are none of theirs."""
    loopback: tuple[Rule, ...] = (("-d", _LOOPBACK6, "-j", "RETURN"),) if _is_ipv6(pool) else ()
    local = ("-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "RETURN")
    tenants = ("-s", pool, "-m", "addrtype", "!", "--src-type", "LOCAL", "-j", "RETURN")
    return {own.ports: (*loopback, local, tenants, *(rule for one in publications for rule in entry(one)))}


def here(own: Names) -> Chains:
    return {own.here: (("-j", own.ports),)}


def sources(own: Names, pool: str, publications: Iterable[Publication]) -> Chains:
    """A tenant would answer 127.0.0.1 to itself. The last rule is Docker's own, for when a flush has taken it away."""
    nets = networks(pool, publications)
    loopback = [] if _is_ipv6(pool) else [("-s", _LOOPBACK, "-d", net, "-j", "MASQUERADE") for net in nets]
    return {own.sources: (*loopback, *(("-s", net, "!", "-d", net, "-j", "MASQUERADE") for net in nets))}


def through(own: Names, pool: str, publications: Iterable[Publication]) -> Chains:
    """Connections to published ports, both ways, wherever the client is; tenants among each other never.

    By IPv6 nothing else comes in from outside: an engine that leaves ip6tables alone, as older ones do, drops nothing.
    """
    nets = networks(pool, publications)
    state = ("-m", "conntrack", "--ctstate", "DNAT", "--ctdir")
    apart = [("-s", one, "-d", other, "-j", "RETURN") for one in nets for other in nets]
    passing = [
        rule
        for net in nets
        for rule in (("-d", net, *state, "ORIGINAL", "-j", "ACCEPT"), ("-s", net, *state, "REPLY", "-j", "ACCEPT"))
    ]
    asked = ("-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED,DNAT")
    closed = [("-d", net, *asked, "-j", "DROP") for net in nets] if _is_ipv6(pool) else []
    return {own.through: (*apart, *passing, *closed)}


def networks(pool: str, publications: Iterable[Publication]) -> tuple[str, ...]:
    """The pool, and networks from before the owner configured another one."""
    make: Any = IPv6Network if _is_ipv6(pool) else IPv4Network
    strays = {one.enclosure.subnet for one in publications}
    return (str(make(pool)), *sorted(net for net in strays if not make(net).subnet_of(make(pool))))


def _is_ipv6(pool: str) -> bool:
    return ":" in pool


def published(rules: Iterable[SavedRule]) -> Mapping[int, frozenset[tuple[int, Protocol]]]:
    """By contract: the ports that lead to it, by the rules of PORTS."""
    found: dict[int, set[tuple[int, Protocol]]] = {}
    for contract_id, port in _leads(rules):
        found.setdefault(contract_id, set()).add(port)
    return {contract_id: frozenset(held) for contract_id, held in found.items()}


def _leads(rules: Iterable[SavedRule]) -> Iterator[tuple[int, tuple[int, Protocol]]]:
    for rule in rules:
        if match := _LEADS.fullmatch(rule.text):
            yield int(match[3]), (int(match[2]), Protocol(match[1]))
