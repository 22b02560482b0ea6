"""Counts each contract's bytes to and from the internet by rules of its own, in chains of kaalia's own.

    mangle POSTROUTING ─▶ COUNT ─▶ COUNT-UP    to what is no internet: back; from a contract's: count
                               ├─▶ COUNT-DOWN  from what is no internet: back; to a contract's: count
                               └─▶ RELAY-DOWN  of a renter by a relay, to a contract's: count
    mangle INPUT ─────────────────▶ RELAY-UP    to a renter by a relay, from a contract's: count

The rules have no target: nothing that passes is touched. There a packet has passed every filter and still has the
tenant's own address, also one that was sent to a port of the machine; what Docker's proxy sends comes from the machine.
So does what a connection to a relay brings, but by an address of loopback that nothing else goes to: it is internet.
Where contracts have IPv6 the first two stand in ip6tables too, and a contract's bytes are those of both families.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kaalia.contracts.ports import ipv4_subnet, ipv6_subnet
from kaalia.errors import HostError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule, Saved
from kaalia.model.relay import RENTERS_ADDRESS
from kaalia.model.traffic import Bytes, Counter, Reading
from kaalia.runtime.base import Counters
from kaalia.runtime.sandbox import rules

TABLE = "mangle"
HOOK = "POSTROUTING"
HOOK_OF_ANSWERS = "INPUT"
"""What answers a connection from loopback never leaves the machine."""
_RENTERS = ("-m", "conntrack", "--ctorigdst", RENTERS_ADDRESS)
NOT_INTERNET = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
)
"""This machine, private networks, carrier-grade NAT, link-local, multicast and what is reserved."""
NOT_INTERNET_IPV6 = ("::/3", "4000::/2", "8000::/1")
"""All outside of 2000::/3."""
_RULE = re.compile(r'-([sd]) (\S+) -m comment --comment "?kaalia/([^/" ]+)/(\d+)/([0-9a-f]+)"?')


@dataclass(frozen=True, slots=True)
class Names:
    """`base`: of the chain that the hook jumps to."""

    base: str
    end: str = ""
    family: Family = Family.IPV4

    @property
    def count(self) -> str:
        return f"{self.base}{self.end}"

    @property
    def up(self) -> str:
        return f"{self.base}-UP{self.end}"

    @property
    def down(self) -> str:
        return f"{self.base}-DOWN{self.end}"

    @property
    def relay_up(self) -> str:
        return f"KAALIA-RELAY-UP{self.end}"

    @property
    def relay_down(self) -> str:
        return f"KAALIA-RELAY-DOWN{self.end}"

    @property
    def jumps(self) -> Mapping[str, Rule]:
        """By hook. A relay's renters come by loopback, so by IPv4."""
        counted = {HOOK: ("-j", self.count)}
        return counted if self.family is Family.IPV6 else counted | {HOOK_OF_ANSWERS: (*_RENTERS, "-j", self.relay_up)}

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """The chains that count, with what says there whose a packet is."""
        both = ((self.up, "-s"), (self.down, "-d"))
        return both if self.family is Family.IPV6 else (*both, (self.relay_up, "-s"), (self.relay_down, "-d"))

    @property
    def heads(self) -> Mapping[str, tuple[Rule, ...]]:
        """What each chain begins with."""
        both = (("-j", self.up), ("-j", self.down))
        backs = {
            self.up: _back(self.family, "-d", "--dst-type"),
            self.down: _back(self.family, "-s", "--src-type"),
        }
        if self.family is Family.IPV6:
            return {self.count: both, **backs}
        return {
            self.count: (*both, (*_RENTERS, "-j", self.relay_down)),
            **backs,
            self.relay_up: (),
            self.relay_down: (),
        }


SHARED = Names("KAALIA-COUNT")
"""Of an earlier version, for all machines of an engine: what stands there is read once more, and goes."""


def _back(family: Family, side: str, kind: str) -> tuple[Rule, ...]:
    closed = NOT_INTERNET if family is Family.IPV4 else NOT_INTERNET_IPV6
    nets = tuple((side, net, "-j", "RETURN") for net in closed)
    return (*nets, ("-m", "addrtype", kind, "LOCAL", "-j", "RETURN"))


async def _nowhere() -> bool:
    return False


class PacketCounters:
    """The counters of one machine (`labels.machine_name`). Other machines' are left as they are.

    `has_ipv6`: whether new contracts have IPv6.
    """

    def __init__(self, machine: str, has_ipv6: Callable[[], Awaitable[bool]] = _nowhere) -> None:
        self._four = FamilyCounters(machine, Family.IPV4)
        self._six = FamilyCounters(machine, Family.IPV6)
        self._has_ipv6 = has_ipv6
        self._counts_ipv6: bool | None = None
        self.names = self._four.names

    async def read(self) -> Counters:
        """Raises HostError of `host.netfilter`."""
        four = await self._four.read()
        if not await self._looks_at_both():
            return four
        six = await self._six.read()
        more = {one.counter: one.raw for one in six.readings}
        # Half of a sum would look like a counter that began anew: who lacks one of both is charged for nothing.
        both = tuple(replace(one, raw=one.raw + more[one.counter]) for one in four.readings if one.counter in more)
        return Counters(both, four.is_whole and six.is_whole and len(both) == len(four.readings) == len(more))

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        """In one stroke of each family, while the others count on. Raises HostError of `host.netfilter`."""
        adds, drops = tuple(add), tuple(drop)
        for one in self._families():
            await one.change(adds, drops)

    async def build(self, counters: Collection[Counter]) -> None:
        """All anew, from 0 on, in one stroke of each family. Raises HostError of `host.netfilter`."""
        for one in self._families():
            await one.build(counters)

    def _families(self) -> "tuple[FamilyCounters, ...]":
        return (self._four, self._six) if self._counts_ipv6 else (self._four,)

    async def _looks_at_both(self) -> bool:
        """From the first contract with IPv6 on for as long as the rules stand, whatever the machine has then."""
        if not self._counts_ipv6:
            is_first, self._counts_ipv6 = self._counts_ipv6 is None, await self._has_ipv6()
            if is_first and not self._counts_ipv6:
                self._counts_ipv6 = await self._six.stands()
        return self._counts_ipv6


class FamilyCounters:
    """Those of one family of addresses."""

    def __init__(self, machine: str, family: Family) -> None:
        self._machine = machine
        self._family = family
        self._is_broken = False
        """At the last look: single rules can be added to and taken from whole chains only."""
        self.names = Names("KAALIA-COUNT", f"-{rules.names(machine).mark}", family)

    async def stands(self) -> bool:
        """Its chains are there, as far as can be told."""
        try:
            return (
                self._family in await asyncio.to_thread(netfilter.families) and self.names.count in await self._saved()
            )
        except HostError:
            return False

    async def read(self) -> Counters:
        """Raises HostError of `host.netfilter`."""
        saved = await self._saved()
        is_ipv4 = self._family is Family.IPV4
        if is_ipv4 and self.names.count not in saved and SHARED.count in saved:
            found = Counters(self._read(saved, SHARED).readings)
        else:
            found = self._read(saved, self.names)
        self._is_broken = not found.is_whole
        return found

    def _read(self, saved: Saved, names: Names) -> Counters:
        jumps = [_jumps(saved, hook, jump) for hook, jump in names.jumps.items()]
        sums = [dict(_counts(saved, chain, self._machine)) for chain, _ in names.sides]
        up, down, relay_up, relay_down = sums if len(sums) == 4 else (*sums, {}, {})
        begun = {chain: _begins(saved, chain, head) for chain, head in names.heads.items()}
        # Two jumps count everything twice, a chain without its beginning counts the LAN: nobody is charged for that.
        is_sound = max(jumps) <= 1 and begun[names.up] and begun[names.down]
        # An earlier version counted no renters by relays: of these nothing is known, the rest is.
        readings = tuple(
            Reading(one, Bytes(up[one], down[one]), Bytes(relay_up.get(one, 0), relay_down.get(one, 0)))
            for one in up
            if one in down and is_sound
        )
        is_complete = all(one.keys() == up.keys() for one in sums) and saved.keys() >= names.heads.keys()
        return Counters(readings, is_sound and min(jumps) == 1 and begun[names.count] and is_complete)

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        """In one stroke, while the others count on. Raises HostError of `host.netfilter`."""
        if self._is_broken:
            await self.build([*add])
            return
        commands: list[Rule] = []
        for verb, counters in (("-D", drop), ("-A", add)):
            for one in counters:
                commands += [(verb, chain, *self._rule(side, one)) for chain, side in self.names.sides]
        await netfilter.apply(self._family, [Change(TABLE, commands=commands)])

    async def build(self, counters: Collection[Counter]) -> None:
        """All anew, from 0 on, in one stroke. Raises HostError of `host.netfilter`."""
        saved, chains = await self._saved(), dict(self.names.heads)
        for chain, side in self.names.sides:
            chains[chain] = (*chains[chain], *(self._rule(side, one) for one in counters))
        jumps: list[Rule] = []
        for hook, jump in self.names.jumps.items():
            jumps += [*[("-D", hook, *jump)] * _jumps(saved, hook, jump), ("-I", hook, "1", *jump)]
        await netfilter.apply(self._family, [Change(TABLE, chains, [*jumps, *self._leave_shared(saved)])])
        self._is_broken = False

    def _leave_shared(self, saved: Saved) -> list[Rule]:
        """Own rules of an earlier version go, and its chains when no other machine counts there."""
        own, others = [], False
        for chain, side in SHARED.sides:
            for rule in saved.get(chain, ()):
                if found := _counter(rule.text):
                    machine, counter = found
                    others = others or machine != self._machine
                    own += [("-D", chain, *self._rule(side, counter))] if machine == self._machine else []
        chains = [chain for chain in SHARED.heads if chain in saved]
        if others:
            return own
        jump = SHARED.jumps[HOOK]
        gone = [("-D", HOOK, *jump)] * _jumps(saved, HOOK, jump)
        return [*gone, *(("-F", chain) for chain in chains), *(("-X", chain) for chain in chains)]

    async def _saved(self) -> Saved:
        return await netfilter.saved(self._family, TABLE, with_counters=True)

    def _rule(self, side: str, counter: Counter) -> Rule:
        name = f"kaalia/{self._machine}/{counter.contract_id}/{counter.epoch}"
        subnet = counter.subnet if self._family is Family.IPV4 else ipv6_subnet(self._machine, counter.subnet)
        return (side, subnet, "-m", "comment", "--comment", name)


def _jumps(saved: Saved, hook: str, jump: Rule) -> int:
    return sum(rule.text == " ".join(jump) for rule in saved.get(hook, ()))


def _begins(saved: Saved, chain: str, head: tuple[Rule, ...]) -> bool:
    """The order is the meaning: what is no internet goes back before anything counts it."""
    return [rule.text for rule in saved.get(chain, ())[: len(head)]] == [" ".join(rule) for rule in head]


def _counts(saved: Saved, chain: str, machine: str) -> Iterator[tuple[Counter, int]]:
    for rule in saved.get(chain, ()):
        found = _counter(rule.text)
        if found is not None and found[0] == machine:
            yield found[1], rule.wire_bytes


def _counter(text: str) -> tuple[str, Counter] | None:
    """The machine and the counter of a rule that counts."""
    found = _RULE.fullmatch(text)
    if found is None:
        return None
    return found[3], Counter(int(found[4]), ipv4_subnet(found[2]) if ":" in found[2] else found[2], found[5])
