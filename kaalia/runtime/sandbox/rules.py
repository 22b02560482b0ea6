"""What a tenant's network reaches, as rules of the packet filter. Pure.

    mangle PREROUTING ──▶ WALLS: by bridge ──▶ REACH: one policy for all ──▶ RETURN or DROP
    mangle FORWARD ───▶ PACE: to tenants: DROP what is above the bandwidth
    filter FORWARD, last ──▶ PASSAGE: what Docker lets through, for when its own rules are gone

Mangle, since it comes before routing and before any port is translated: one place for what goes to this machine and
through it, in which a published port of a neighbour is still an address of this machine. Docker and
`iptables -F` do not touch it. Rules are written as iptables-save prints them, and ip6tables-save for contracts that
have an IPv6 network too: there one more chain, NEAR, lets a tenant ask for its gateway's hardware address, and answer.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kaalia.contracts.networks import CLOSED, CLOSED_IPV6, NEVER, NEVER_IPV6
from kaalia.contracts.ports import IPV6_SUBNET_PREFIX, SUBNET_PREFIX, ipv6_address_in
from kaalia.host.netfilter import Family, Rule, SavedRule

NEIGHBOURS = "ff02::1:ff00:0/104"
"""Groups in which a host is asked for its hardware address."""
LINK = "fe80::/10"
_SOLICITATION, _ADVERTISEMENT = "135", "136"
_ADVERTISEMENTS = ("-m", "limit", "--limit", "10/sec", "--limit-burst", "20")
"""From link-local addresses, of which anybody may invent one: the machine's table of neighbours is everybody's."""
SMTP_PORTS = (25, 465, 587)
CONNECTIONS_PER_S = 1000
"""New connections of one contract. The kernel keeps an unanswered or closed one for 120 s (nf_conntrack_tcp_timeout_*),
and a data set of single files from a thousand sites a second still comes down."""
CONNECTIONS_BURST = 5000
CONNECTION_TABLE = 262_144
"""The connections that the kernel follows (nf_conntrack_max) on machines with more than 4 GB."""
CONNECTIONS_SHARE = 16
"""A contract's part of them: eight tenants leave half to the machine."""
SAMPLE = 32
"""One new connection of so many is counted: at each the kernel goes through all that it counts, in 0.7 us each
(docs/measured.md): 512 cost 0.4 ms at every 32nd connection, and 16,384 would cost 11.5 ms at each."""
SHUT_S = 120
"""Whoever has too many begins none for so long; then about `SAMPLE` pass before it is found out again."""
_OPEN_RESOLVER = re.compile(r"-d ([0-9a-f.:]+)/(?:32|128) -p udp -m udp --dport 53 -j RETURN")
_WORD_MAX = 1_000_000
"""No number of iptables' hashlimit is greater, whatever its unit."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The owner's word on what all tenants of the machine reach. None: no limit."""

    allow: tuple[str, ...] = ()
    """Networks of both families, as CIDR, that are open although they are not the internet."""
    blocks_smtp: bool = True
    connections_per_s: int | None = CONNECTIONS_PER_S
    bits_per_s: int | None = None
    """Of one contract, each way; whole bytes. `tc` holds what goes to it, a rule here what comes from it."""
    connections: int | None = CONNECTION_TABLE // CONNECTIONS_SHARE
    """That one contract began and the kernel still follows."""


@dataclass(frozen=True, slots=True)
class Enclosure:
    """The network of one contract."""

    contract_id: int
    bridge: str
    """The interface by which its packets come in."""
    subnet: str
    subnet6: str = ""
    """"": it has no IPv6."""

    @property
    def address6(self) -> str:
        """The one by which its workload may send."""
        return ipv6_address_in(self.subnet6) if self.subnet6 else ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the rules of both families."""

    version: int
    host_prefix: int
    subnet_prefix: int
    never: tuple[str, ...]
    closed: tuple[str, ...]
    own: tuple[str, ...]
    """Types of addresses at which this machine listens."""
    many: str
    """Of a table that the kernel keeps for one family."""


KINDS = {
    Family.IPV4: Kind(4, 32, SUBNET_PREFIX, NEVER, CLOSED, ("LOCAL", "BROADCAST"), "MANY"),
    Family.IPV6: Kind(6, 128, IPV6_SUBNET_PREFIX, NEVER_IPV6, CLOSED_IPV6, ("LOCAL", "ANYCAST"), "MANY6"),
}


@dataclass(frozen=True, slots=True)
class Names:
    """Chains of one machine: two may share an engine, and each touches its own only."""

    mark: str
    """Of the machine, in all of its names."""

    @property
    def walls(self) -> str:
        return f"KAALIA-WALLS-{self.mark}"

    @property
    def reach(self) -> str:
        return f"KAALIA-REACH-{self.mark}"

    @property
    def near(self) -> str:
        return f"KAALIA-NEAR-{self.mark}"

    @property
    def passage(self) -> str:
        return f"KAALIA-PASSAGE-{self.mark}"

    @property
    def pace(self) -> str:
        return f"KAALIA-PACE-{self.mark}"

    @property
    def ports(self) -> str:
        return f"KAALIA-PORTS-{self.mark}"

    @property
    def here(self) -> str:
        return f"KAALIA-HERE-{self.mark}"

    @property
    def sources(self) -> str:
        return f"KAALIA-SOURCES-{self.mark}"

    @property
    def through(self) -> str:
        return f"KAALIA-THROUGH-{self.mark}"

    def limit(self, what: str, words: str) -> str:
        """Of the kernel's tables of paces, which all of the machine shares.

        The kernel finds a table by its name and leaves it as it was made: other `words`, another name.
        """
        return f"{what}-{self.mark}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def names(machine: str) -> Names:
    return Names(hashlib.sha256(machine.encode()).hexdigest()[:8])


def walls(
    family: Family,
    own: Names,
    reach: Reach,
    pool: str,
    resolvers: Sequence[str],
    enclosures: Sequence[Enclosure],
    lan: Sequence[str] = (),
) -> Mapping[str, tuple[Rule, ...]]:
    """The chains of table mangle. `pool`: the networks of all tenants; `resolvers`: where Docker asks for names.

    `lan`: networks that this machine is on, of addresses that look like the internet's.
    """
    entries = tuple(rule for one in enclosures for rule in entry(family, own, one))
    if family is Family.IPV4:
        return {own.walls: entries, own.reach: _reach(family, own, reach, pool, resolvers, lan)}
    if not any(one.subnet6 for one in enclosures):
        return {own.walls: entries}
    opened = _reach(family, own, reach, pool, resolvers, lan)
    return {own.near: (*_near(), ("-j", "DROP")), own.reach: (*_near(), *opened), own.walls: entries}


def entry(family: Family, own: Names, one: Enclosure) -> tuple[Rule, ...]:
    """A contract's part of the chain `walls`: gone to `reach` for good, or refused."""
    mark = ("-m", "comment", "--comment", f"kaalia-{one.contract_id}")
    refuse = ("-i", one.bridge, *mark, "-j", "DROP")
    if family is Family.IPV4:
        return (("-s", one.subnet, "-i", one.bridge, *mark, "-g", own.reach), refuse)
    if not one.subnet6:
        return (refuse,)
    # One address, not the network: of 2^64 each would take a line of the machine's table of neighbours.
    asks = ("-s", LINK, "-i", one.bridge, "-p", "ipv6-icmp", *_ADVERTISEMENTS, *mark, "-g", own.near)
    return (("-s", f"{one.address6}/128", "-i", one.bridge, *mark, "-g", own.reach), asks, refuse)


def _near() -> tuple[Rule, ...]:
    """Who is asked for hardware addresses is on this bridge: the machine. A packet from afar has fewer hops left."""
    local = ("-m", "addrtype", "--dst-type", "LOCAL")
    return (
        ("-d", NEIGHBOURS, *_neighbour(_SOLICITATION), "-j", "RETURN"),
        ("-d", LINK, *_neighbour(_SOLICITATION), "-j", "RETURN"),
        (*_neighbour(_SOLICITATION), *local, "-j", "RETURN"),
        ("-d", LINK, *_neighbour(_ADVERTISEMENT), "-j", "RETURN"),
        (*_neighbour(_ADVERTISEMENT), *local, "-j", "RETURN"),
    )


def _neighbour(kind: str) -> Rule:
    return ("-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", kind, "-m", "hl", "--hl-eq", "255")


def passage(own: Names, enclosures: Iterable[Enclosure]) -> Mapping[str, tuple[Rule, ...]]:
    """The chain of table filter: out, and in what was asked for or leads to a published port."""
    states = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT")
    return {
        own.passage: tuple(
            rule
            for one in enclosures
            for rule in (
                ("-i", one.bridge, "!", "-o", one.bridge, "-j", "ACCEPT"),
                ("-o", one.bridge, *states, "-j", "ACCEPT"),
            )
        )
    }


def pace(own: Names, reach: Reach, pool: str, family: Family = Family.IPV4) -> Mapping[str, tuple[Rule, ...]]:
    """The chain that drops what comes above the bandwidth before it is counted, as the bridge would do afterwards.

    Without a burst the kernel lets a second's worth pass after a pause. A joint packet of 64 KiB may be more than that:
    it costs a second's worth and no more, so the slowest limits let such packets through too.
    """
    if reach.bits_per_s is None:
        return {own.pace: ()}
    rate, _ = _pace(reach.bits_per_s)
    return {own.pace: (("-d", pool, *_limit(family, own, "dst", rate, what="DOWN"), "-j", "DROP"),)}


def resolvers(standing: Iterable[SavedRule]) -> tuple[str, ...]:
    """The name servers that the rules of the chain `reach` open, as the kernel has them."""
    return tuple(match[1] for rule in standing if (match := _OPEN_RESOLVER.fullmatch(rule.text)))


def _reach(
    family: Family, own: Names, reach: Reach, pool: str, resolvers: Sequence[str], lan: Sequence[str]
) -> tuple[Rule, ...]:
    """The first rule that fits decides; what comes to the end is the internet."""
    kind = KINDS[family]
    hosts, networks = _split(reach.allow, kind)
    # The first packet of a connection: a later one is confirmed, and still new while nobody answers.
    new = ("-m", "conntrack", "--ctstate", "NEW", "!", "--ctstatus", "CONFIRMED")
    rules: list[Rule] = []
    if reach.bits_per_s is not None:
        rules.append((*_limit(family, own, "src", *_pace(reach.bits_per_s), what="BYTES"), "-j", "DROP"))
    # Not what the tenant began itself: were the walls down at that moment, it would stay open for ever.
    rules.append(("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "--ctdir", "REPLY", "-j", "RETURN"))
    if reach.connections_per_s is not None:
        pace, burst = reach.connections_per_s, max(CONNECTIONS_BURST, reach.connections_per_s)
        rules.append((*new, *_limit(family, own, "src", f"{pace}/sec", str(burst), what="NEW"), "-j", "DROP"))
    if reach.connections is not None:
        rules += [(*new, *words, "-j", "DROP") for words in hold(own, reach.connections, family)]
    rules += [("-d", network, "-j", "DROP") for network in (pool, *kind.never)]
    rules += [
        ("-d", f"{one}/{kind.host_prefix}", "-p", protocol, "-m", protocol, "--dport", "53", "-j", "RETURN")
        for one in resolvers
        for protocol in ("udp", "tcp")
    ]
    # A single address may be this machine itself; a network that holds it is not meant to open its services.
    rules += [("-d", host, "-j", "RETURN") for host in hosts]
    rules += [("-m", "addrtype", "--dst-type", one, "-j", "DROP") for one in kind.own]
    rules += [("-d", network, "-j", "RETURN") for network in networks]
    rules += [("-d", network, "-j", "DROP") for network in (*lan, *kind.closed)]
    if reach.blocks_smtp:
        ports = ",".join(map(str, SMTP_PORTS))
        rules.append(("-p", "tcp", "-m", "multiport", "--dports", ports, "-j", "DROP"))
    return tuple(rules)


def _split(allow: Iterable[str], kind: Kind) -> tuple[list[str], list[str]]:
    """Single addresses, and networks, of one family."""
    nets = {ipaddress.ip_network(one) for one in allow}
    found = sorted((one for one in nets if one.version == kind.version), key=lambda one: (one[0].packed, one.prefixlen))
    hosts = [str(one) for one in found if one.prefixlen == kind.host_prefix]
    return hosts, [str(one) for one in found if one.prefixlen < kind.host_prefix]


def _pace(bits_per_s: int) -> tuple[str, str]:
    """Rate and burst in the units that iptables takes: it wants a burst of a second at least, and makes it two."""
    kib_per_s = max(1, round(bits_per_s / 8 / 1024))
    burst_kib = kib_per_s * 21 // 20 + 1
    return f"{kib_per_s}kb/s", f"{burst_kib}kb" if burst_kib < _WORD_MAX else f"{burst_kib // 1024 + 1}mb"


def _limit(family: Family, own: Names, side: str, above: str, burst: str = "", *, what: str) -> Rule:
    """Counted by the contract's network, over all of its addresses. `side`: src or dst."""
    bursts, mask = f" --hashlimit-burst {burst}" if burst else "", KINDS[family].subnet_prefix
    words = f"--hashlimit-above {above}{bursts} --hashlimit-mode {side}ip --hashlimit-{side}mask {mask}"
    return ("-m", "hashlimit", *words.split(), "--hashlimit-name", own.limit(what, words))


def hold(own: Names, connections: int, family: Family = Family.IPV4) -> tuple[Rule, Rule]:
    """Who had too many a moment ago; whose sample says that he has too many now."""
    kind = KINDS[family]
    whole = ipaddress.IPv4Network if family is Family.IPV4 else ipaddress.IPv6Network
    net = whole((0, kind.subnet_prefix)).netmask
    many = ("--name", f"{kind.many}-{own.mark}", "--mask", str(net), "--rsource")
    sample = ("-m", "statistic", "--mode", "random", "--probability", f"{1 / SAMPLE:.11f}")
    above = str(max(1, connections // SAMPLE))
    counted = (
        *("-m", "connlimit", "--connlimit-above", above),
        *("--connlimit-mask", str(kind.subnet_prefix), "--connlimit-saddr"),
    )
    return (
        ("-m", "recent", "--rcheck", "--seconds", str(SHUT_S), *many),
        (*sample, *counted, "-m", "recent", "--set", *many),
    )
