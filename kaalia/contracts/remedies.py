"""What a map of ports means: each fault once, with the line for the router or the firewall that would mend it.

Where several faults have one cause (a router that forwards nothing), the cause is named and not its consequences.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from kaalia.contracts.reach import in_short
from kaalia.errors import Problem
from kaalia.model.machine import PortRange
from kaalia.model.reach import PortMap, PortSpan, PortState, Reason
from kaalia.model.workload import Protocol

SHARED = ipaddress.IPv4Network("100.64.0.0/10")
"""RFC 6598: addresses between a provider's own translation (CGNAT) and its customers."""
NAMED_MAX = 15
"""Groups of ports in a sentence; also what one rule of iptables' multiport takes."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the machine stands. `routed_ip`: the address of its default route; `router_ip`: of the next hop.

    `router_wan_ip`: what the router calls its own outer address, where it tells (NAT-PMP).
    """

    local_ips: Collection[str]
    routed_ip: str | None = None
    router_ip: str | None = None
    router_wan_ip: str | None = None


def findings(found: PortMap, around: Surroundings) -> tuple[Problem, ...]:
    """The causes first. Empty: every port that could be tried is open."""
    return (*_of_address(found, around), *_of_ports(found, around))


def _of_address(found: PortMap, around: Surroundings) -> Iterator[Problem]:
    seen = found.seen_address
    if (shared := _translated(found, around)) is not None:
        yield Problem(
            "ports_behind_cgnat",
            f"cannot be reached by a public address of its own: {shared} is of a provider's translation (CGNAT)",
            "ask the provider for a public IPv4 address; no setting of this machine or its router helps",
        )
    elif (wan := around.router_wan_ip) is not None and wan not in (seen, found.address):
        yield Problem(
            "ports_double_nat",
            f"cannot rely on the router alone: its outer address is {wan}, the prober sees {seen}",
            f"let the router before it forward too, or put it into bridge mode; {_forward(found, around)}",
        )
    if found.configured_ip is not None and found.address != found.configured_ip:
        yield Problem(
            "public_ip_differs",
            f"cannot prove ports of ports.public_ip={found.configured_ip}: the prober sees {seen}",
            f"set ports.public_ip: {seen} (or auto) when that is the address; else use a prober that may try the other",
        )


def _translated(found: PortMap, around: Surroundings) -> str | None:
    """An address of a provider's translation that this machine's traffic passes."""
    for address in (around.router_wan_ip, around.routed_ip, found.seen_address):
        if address and address != found.configured_ip and _is_shared(address):
            return address
    return None


def _of_ports(found: PortMap, around: Surroundings) -> Iterator[Problem]:
    free = [span for span in found.spans if span.state is not PortState.HELD]
    everything = _all(found)
    silent = [span for span in free if span.reason in (Reason.SILENT, Reason.PROHIBITED)]
    if found.is_blind:
        yield Problem(
            "ports_unknown",
            f"cannot tell whether ports {_range(found.port_range)} at {found.address} are open: the firewall of this "
            "machine may have dropped the questions, and would not drop what comes to renters",
            f"on this machine: {_firewall(dict.fromkeys(Protocol, everything))}; {_forward(found, around)}",
        )
    elif free and silent == free:
        yield Problem(
            "ports_all_filtered",
            f"cannot be reached on any port of {_range(found.port_range)} at {found.address}: nothing comes through",
            f"{_forward(found, around)}; on this machine: {_firewall(dict.fromkeys(Protocol, everything))}",
        )
    else:
        yield from _filtered(found, silent, around)
    yield from _lost(free)
    if not found.is_blind:
        yield from _answered_by_others(found, free, around)
    yield from _unforwarded(found)
    yield from _shifted(free)
    used = [span for span in found.spans if span.reason is Reason.IN_USE]
    if used:
        programs = "; ".join(dict.fromkeys(f"{_ports([span])}/{span.protocol} {span.detail}" for span in used[:8]))
        yield Problem(
            "ports_in_use",
            f"cannot give {_ports(used)} to renters: programs of this machine use them",
            "stop these programs, give them other ports, or take another ports.range",
            programs,
        )


def _filtered(found: PortMap, silent: list[PortSpan], around: Surroundings) -> Iterator[Problem]:
    """Those that one protocol loses, and those that both do."""
    by_protocol = {
        protocol: frozenset(port for span in silent if span.protocol is protocol for port in _numbers(span))
        for protocol in Protocol
    }
    tcp, udp = by_protocol[Protocol.TCP], by_protocol[Protocol.UDP]
    if not tcp and udp and not _is_any_open(found, Protocol.UDP):
        yield Problem(
            "ports_udp_filtered",
            f"cannot be reached by UDP on any port of {_range(found.port_range)}, though TCP comes through",
            f"forward UDP as well as TCP: {_forward(found, around)}; "
            f"on this machine: {_firewall({Protocol.UDP: _all(found)})}",
        )
        return
    groups = ((tcp & udp, tuple(Protocol)), (tcp - udp, (Protocol.TCP,)), (udp - tcp, (Protocol.UDP,)))
    lost = [(ports, protocols) for ports, protocols in groups if ports]
    if lost:
        rules = _firewall({Protocol.TCP: _in_one_rule(tcp, found), Protocol.UDP: _in_one_rule(udp, found)})
        names = "; ".join(f"by {_names(protocols)} on {_short(ports)}" for ports, protocols in lost)
        yield Problem(
            "ports_filtered",
            f"cannot be reached {names}: a firewall drops it, or the router does not forward it",
            f"on this machine: {rules}; {_forward(found, around, _short(tcp | udp))}",
        )


def _unforwarded(found: PortMap) -> Iterator[Problem]:
    """What renters' ports meet and free ones do not: FORWARD, where a published port goes through this machine."""
    reasons = (Reason.SILENT, Reason.PROHIBITED)
    held = [span for span in found.spans if span.state is PortState.HELD and span.reason in reasons]
    if held and _is_any_open(found, Protocol.TCP):
        yield Problem(
            "ports_not_forwarded",
            f"cannot be reached on {_ports(held)} of contracts, though free ports are: no connection came through",
            "let this machine forward what comes to published ports: see DOCKER-USER and FORWARD in iptables-save, and "
            "the forward chains of nftables",
        )


def _lost(free: list[PortSpan]) -> Iterator[Problem]:
    if lost := [span for span in free if span.reason is Reason.ANSWER_LOST]:
        yield Problem(
            "ports_answer_lost",
            f"cannot answer on {_ports(lost)}: questions come in, answers do not get out",
            "let answers of these ports leave this machine: look for rules of OUTPUT, and for a second way out",
        )


def _answered_by_others(found: PortMap, free: list[PortSpan], around: Surroundings) -> Iterator[Problem]:
    refused = [span for span in free if span.reason is Reason.REFUSED]
    others = [span for span in free if span.reason is Reason.OTHER]
    if refused:
        yield Problem(
            "ports_refused",
            f"cannot be reached on {_ports(refused)}: somebody refuses there, though this machine listened",
            f"a second router (double NAT), another machine, or a rule that rejects: {_forward(found, around)}",
        )
    if others:
        yield Problem(
            "ports_answered_by_other",
            f"cannot be reached on {_ports(others)}: somebody else takes the connections",
            f"the router sends them to another machine, or serves them itself: {_forward(found, around)}",
        )


def _shifted(free: list[PortSpan]) -> Iterator[Problem]:
    if shifted := [span for span in free if span.reason is Reason.SHIFTED]:
        steps = ", ".join(dict.fromkeys(span.detail for span in shifted))
        yield Problem(
            "ports_shifted",
            f"cannot use {_ports(shifted)}: they are forwarded to other ports of this machine ({steps})",
            "forward each port to the same number",
        )


def _forward(found: PortMap, around: Surroundings, ports: str = "") -> str:
    """The line for the router; a machine that has the public address itself has none."""
    if found.address in around.local_ips:
        return "and in the provider's firewall or security group, if there is one"
    router = f"on the router {around.router_ip}" if around.router_ip else "on the router"
    own = around.routed_ip or next(iter(around.local_ips), "this machine")
    return f"{router}: forward TCP and UDP {ports or _range(found.port_range)} to {own}, same ports"


def _firewall(wanted: Mapping[Protocol, frozenset[int]]) -> str:
    """The lines for the host's own firewall, whichever it is."""
    rules = [(protocol, _colons(ports)) for protocol, ports in wanted.items() if ports]
    ufw = "; ".join(f"ufw allow {ports}/{protocol}" for protocol, ports in rules)
    tables = "; ".join(f"iptables -I INPUT -p {each} -m multiport --dports {ports} -j ACCEPT" for each, ports in rules)
    added = " ".join(
        f"--add-port={part.replace(':', '-')}/{protocol}" for protocol, ports in rules for part in ports.split(",")
    )
    return (
        f"with ufw: {ufw} / with firewalld: firewall-cmd --permanent {added} && firewall-cmd --reload / else: {tables}"
    )


def _in_one_rule(ports: frozenset[int], found: PortMap) -> frozenset[int]:
    """Themselves, or the whole range where one rule of iptables or ufw cannot hold them; a span counts twice there."""
    numbers = _colons(ports).replace(":", ",").split(",")
    return ports if len(numbers) <= NAMED_MAX else _all(found)


def _names(protocols: tuple[Protocol, ...]) -> str:
    return " and ".join(protocol.value.upper() for protocol in protocols)


def _is_any_open(found: PortMap, protocol: Protocol) -> bool:
    return any(span.state is PortState.OPEN for span in found.spans if span.protocol is protocol)


def _numbers(span: PortSpan) -> range:
    return range(span.first, span.last + 1)


def _ports(spans: list[PortSpan]) -> str:
    return _short(frozenset(port for span in spans for port in _numbers(span)))


def _short(ports: frozenset[int]) -> str:
    groups = in_short(ports).split(", ")
    more = f" and {len(groups) - NAMED_MAX} more groups" if len(groups) > NAMED_MAX else ""
    word = "port" if len(ports) == 1 else "ports"
    return f"{word} {', '.join(groups[:NAMED_MAX])}{more}"


def _colons(ports: frozenset[int]) -> str:
    return in_short(ports).replace(", ", ",").replace("-", ":")


def _all(found: PortMap) -> frozenset[int]:
    return frozenset(range(found.port_range.first, found.port_range.last + 1))


def _range(ports: PortRange) -> str:
    return f"{ports.first}-{ports.last}"


def _is_shared(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in SHARED
    except ValueError:
        return False
