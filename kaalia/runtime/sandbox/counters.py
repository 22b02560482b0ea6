"""Counts each contract's bytes to and from the internet by rules of its own, in chains of kaalia's own.

    mangle POSTROUTING ─▶ KAALIA-COUNT ─▶ KAALIA-COUNT-UP    to what is no internet: back; from a contract's: count
                                      └─▶ KAALIA-COUNT-DOWN  from what is no internet: back; to a contract's: count

The rules have no target: nothing that passes is touched. There a packet has passed every filter and still has the
tenant's own address, also one that was sent to a port of the machine; what Docker's proxy sends comes from the machine.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family, Rule, Saved
from kaalia.model.traffic import Bytes, Counter, Reading
from kaalia.runtime.base import Counters

TABLE = "mangle"
HOOK = "POSTROUTING"
CHAIN, UP, DOWN = "KAALIA-COUNT", "KAALIA-COUNT-UP", "KAALIA-COUNT-DOWN"
NOT_INTERNET = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
)
"""This machine, private networks, carrier-grade NAT, link-local, multicast and what is reserved."""
_HEAD: dict[str, tuple[Rule, ...]] = {
    CHAIN: (("-j", UP), ("-j", DOWN)),
    UP: (
        *(("-d", net, "-j", "RETURN") for net in NOT_INTERNET),
        ("-m", "addrtype", "--dst-type", "LOCAL", "-j", "RETURN"),
    ),
    DOWN: (
        *(("-s", net, "-j", "RETURN") for net in NOT_INTERNET),
        ("-m", "addrtype", "--src-type", "LOCAL", "-j", "RETURN"),
    ),
}
"""What each chain begins with."""
_JUMP = ("-j", CHAIN)
_RULE = re.compile(r'-([sd]) (\S+) -m comment --comment "?kaalia/([^/" ]+)/(\d+)/([0-9a-f]+)"?')


class PacketCounters:
    """The counters of one machine (`labels.machine_name`). Other machines' are left as they are."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._jumps = 0

    async def read(self) -> Counters:
        """Raises HostError of `host.netfilter`."""
        saved = await netfilter.saved(Family.IPV4, TABLE, with_counters=True)
        self._jumps = sum(1 for rule in saved.get(HOOK, ()) if rule.text == " ".join(_JUMP))
        up, down = (dict(_counts(saved, chain, self._machine)) for chain in (UP, DOWN))
        begun = {chain: _begins(saved, chain) for chain in _HEAD}
        # Two jumps count everything twice, a chain without its beginning counts the LAN: nobody is charged for that.
        is_sound = self._jumps <= 1 and begun[UP] and begun[DOWN]
        readings = tuple(Reading(one, Bytes(up[one], down[one])) for one in up if one in down and is_sound)
        is_whole = is_sound and self._jumps == 1 and begun[CHAIN] and up.keys() == down.keys()
        return Counters(readings, is_whole)

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        """In one stroke, while the others count on. Raises HostError of `host.netfilter`."""
        commands: list[Rule] = []
        for verb, counters in (("-D", drop), ("-A", add)):
            commands += [(verb, chain, *self._rule(chain, one)) for one in counters for chain in (UP, DOWN)]
        await netfilter.apply(Family.IPV4, [Change(TABLE, commands=commands)])

    async def build(self, counters: Collection[Counter]) -> None:
        """All anew, from 0 on, in one stroke. Raises HostError of `host.netfilter`."""
        chains = {
            chain: [*head, *(self._rule(chain, one) for one in counters if chain != CHAIN)]
            for chain, head in _HEAD.items()
        }
        jumps = [*[("-D", HOOK, *_JUMP)] * self._jumps, ("-I", HOOK, "1", *_JUMP)]
        await netfilter.apply(Family.IPV4, [Change(TABLE, chains, jumps)])

    def _rule(self, chain: str, counter: Counter) -> Rule:
        side = "-s" if chain == UP else "-d"
        name = f"kaalia/{self._machine}/{counter.contract_id}/{counter.epoch}"
        return (side, counter.subnet, "-m", "comment", "--comment", name)


def _begins(saved: Saved, chain: str) -> bool:
    """The order is the meaning: what is no internet goes back before anything counts it."""
    head = [" ".join(rule) for rule in _HEAD[chain]]
    return [rule.text for rule in saved.get(chain, ())[: len(head)]] == head


def _counts(saved: Saved, chain: str, machine: str) -> Iterator[tuple[Counter, int]]:
    for rule in saved.get(chain, ()):
        found = _RULE.fullmatch(rule.text)
        if found is not None and found[3] == machine:
            yield Counter(int(found[4]), found[2], found[5]), rule.wire_bytes
