"""Counts each contract's bytes to and from the internet by rules of its own, in chains of kaalia's own.

    mangle POSTROUTING ─▶ COUNT ─▶ COUNT-UP    to what is no internet: back; from a contract's: count
                               └─▶ COUNT-DOWN  from what is no internet: back; to a contract's: count

The rules have no target: nothing that passes is touched. There a packet has passed every filter and still has the
tenant's own address, also one that was sent to a port of the machine; what Docker's proxy sends comes from the machine.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule, Saved
from kaalia.model.traffic import Bytes, Counter, Reading
from kaalia.runtime.base import Counters
from kaalia.runtime.sandbox import rules

TABLE = "mangle"
HOOK = "POSTROUTING"
NOT_INTERNET = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
)
"""This machine, private networks, carrier-grade NAT, link-local, multicast and what is reserved."""
_RULE = re.compile(r'-([sd]) (\S+) -m comment --comment "?kaalia/([^/" ]+)/(\d+)/([0-9a-f]+)"?')


@dataclass(frozen=True, slots=True)
class Names:
    """`base`: of the chain that the hook jumps to."""

    base: str
    end: str = ""

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
    def jump(self) -> Rule:
        return ("-j", self.count)

    @property
    def heads(self) -> Mapping[str, tuple[Rule, ...]]:
        """What each chain begins with."""
        return {
            self.count: (("-j", self.up), ("-j", self.down)),
            self.up: _back("-d", "--dst-type"),
            self.down: _back("-s", "--src-type"),
        }


SHARED = Names("KAALIA-COUNT")
"""Of an earlier version, for all machines of an engine: what stands there is read once more, and goes."""


def _back(side: str, kind: str) -> tuple[Rule, ...]:
    nets = tuple((side, net, "-j", "RETURN") for net in NOT_INTERNET)
    return (*nets, ("-m", "addrtype", kind, "LOCAL", "-j", "RETURN"))


class PacketCounters:
    """The counters of one machine (`labels.machine_name`). Other machines' are left as they are."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._read_shared = False
        self.names = Names("KAALIA-COUNT", f"-{rules.names(machine).mark}")

    async def read(self) -> Counters:
        """Raises HostError of `host.netfilter`."""
        saved = await self._saved()
        self._read_shared = self.names.count not in saved and SHARED.count in saved
        if self._read_shared:
            return Counters(self._read(saved, SHARED).readings)
        return self._read(saved, self.names)

    def _read(self, saved: Saved, names: Names) -> Counters:
        jumps = _jumps(saved, names)
        up, down = (dict(_counts(saved, chain, self._machine)) for chain in (names.up, names.down))
        begun = {chain: _begins(saved, chain, head) for chain, head in names.heads.items()}
        # Two jumps count everything twice, a chain without its beginning counts the LAN: nobody is charged for that.
        is_sound = jumps <= 1 and begun[names.up] and begun[names.down]
        readings = tuple(Reading(one, Bytes(up[one], down[one])) for one in up if one in down and is_sound)
        is_whole = is_sound and jumps == 1 and begun[names.count] and up.keys() == down.keys()
        return Counters(readings, is_whole)

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        """In one stroke, while the others count on. Raises HostError of `host.netfilter`."""
        if self._read_shared:
            await self.build([*add])
            self._read_shared = False
            return
        commands: list[Rule] = []
        for verb, counters in (("-D", drop), ("-A", add)):
            for one in counters:
                commands += [(verb, chain, *self._rule(side, one)) for chain, side in self._sides(self.names)]
        await netfilter.apply(Family.IPV4, [Change(TABLE, commands=commands)])

    async def build(self, counters: Collection[Counter]) -> None:
        """All anew, from 0 on, in one stroke. Raises HostError of `host.netfilter`."""
        saved, chains = await self._saved(), dict(self.names.heads)
        for chain, side in self._sides(self.names):
            chains[chain] = (*chains[chain], *(self._rule(side, one) for one in counters))
        jumps = [*[("-D", HOOK, *self.names.jump)] * _jumps(saved, self.names), ("-I", HOOK, "1", *self.names.jump)]
        await netfilter.apply(Family.IPV4, [Change(TABLE, chains, [*jumps, *self._leave_shared(saved)])])

    def _leave_shared(self, saved: Saved) -> list[Rule]:
        """Own rules of an earlier version go, and its chains when no other machine counts there."""
        own, others = [], False
        for chain, side in self._sides(SHARED):
            for rule in saved.get(chain, ()):
                if found := _counter(rule.text):
                    machine, counter = found
                    others = others or machine != self._machine
                    own += [("-D", chain, *self._rule(side, counter))] if machine == self._machine else []
        chains = [chain for chain in SHARED.heads if chain in saved]
        if others:
            return own
        gone = [("-D", HOOK, *SHARED.jump)] * _jumps(saved, SHARED)
        return [*gone, *(("-F", chain) for chain in chains), *(("-X", chain) for chain in chains)]

    async def _saved(self) -> Saved:
        return await netfilter.saved(Family.IPV4, TABLE, with_counters=True)

    def _sides(self, names: Names) -> tuple[tuple[str, str], ...]:
        return ((names.up, "-s"), (names.down, "-d"))

    def _rule(self, side: str, counter: Counter) -> Rule:
        name = f"kaalia/{self._machine}/{counter.contract_id}/{counter.epoch}"
        return (side, counter.subnet, "-m", "comment", "--comment", name)


def _jumps(saved: Saved, names: Names) -> int:
    return sum(rule.text == " ".join(names.jump) for rule in saved.get(HOOK, ()))


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
    return (found[3], Counter(int(found[4]), found[2], found[5])) if found else None
