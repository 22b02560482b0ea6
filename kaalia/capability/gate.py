"""Lets questions of a prober past this machine's own INPUT rules, for as long as a batch of ports is tried.

Free ports are tried where the daemon listens, behind INPUT. Ports that are published for renters never meet INPUT: what
it drops says nothing of them. So each batch is accepted there first, and counted where packets enter the machine:
where some came in and none arrived, another firewall of this machine (nftables, firewalld) is why.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from kaalia.contracts.reach import in_short
from kaalia.errors import HostError
from kaalia.host import ipv6, netfilter
from kaalia.host.netfilter import Change, Family, Rule
from kaalia.model.reach import Place
from kaalia.model.workload import Protocol
from kaalia.runtime.sandbox.layer import Layer
from kaalia.runtime.sandbox.layer import Place as Standing

_COUNTED = ("raw", "PREROUTING")
"""Before whatever may drop a packet. Table and hook."""
_ACCEPTED = ("filter", "INPUT")

log = logging.getLogger(__name__)


class FirewallGate:
    """Two chains of its own, which are there during a batch only. `state_dir` tells daemons of one machine apart.

    `by_ipv6`: whether the questions come by that.
    """

    def __init__(self, state_dir: Path, by_ipv6: Callable[[], bool] = ipv6.is_only) -> None:
        self._by_ipv6 = by_ipv6
        self._family = Family.IPV4
        mark = hashlib.sha256(str(state_dir).encode()).hexdigest()[:8]
        self._chains = {_ACCEPTED: f"KAALIA-PROBE-{mark}", _COUNTED: f"KAALIA-KNOCK-{mark}"}
        self._is_open = False

    async def open(self, free: Collection[Place], held: Collection[Place]) -> bool:
        """Accept all of them, count what comes to the free ones. False: it cannot be done here."""
        try:
            await self._choose()
            self._is_open = True
            await self._write(_COUNTED, tuple(_rules(free)))
            await self._write(_ACCEPTED, tuple((*rule, "-j", "ACCEPT") for rule in _rules([*free, *held])))
        except HostError as error:
            log.info("ports: cannot let questions past the firewall: %s", error)
            return False
        return True

    async def has_counted(self) -> bool | None:
        """Something came for a free port of this batch. None: nobody can tell."""
        try:
            saved = await netfilter.saved(self._family, _COUNTED[0], with_counters=True)
        except HostError:
            return None
        rules = saved.get(self._chains[_COUNTED])
        return None if not rules else any(rule.packets for rule in rules)

    async def close(self) -> None:
        """Everything is as it was before, also after a crash. Nothing raises: what stays is logged, and tried again."""
        await self._choose()
        stays = [error for place in self._chains if (error := await self._take_out(*place)) is not None]
        for error in stays:
            if self._is_open or error.code != "firewall_missing":
                log.warning("ports: cannot take rules of a probe out of the firewall: %s", error)
        self._is_open = self._is_open and bool(stays)

    async def _choose(self) -> None:
        if not self._is_open:
            self._family = Family.IPV6 if await asyncio.to_thread(self._by_ipv6) else Family.IPV4

    async def _take_out(self, table: str, hook: str) -> HostError | None:
        chain = self._chains[table, hook]
        try:
            now = await netfilter.saved(self._family, table)
            if chain in now:
                jumps = sum(rule.text == f"-j {chain}" for rule in now.get(hook, ()))
                gone: list[Rule] = [("-D", hook, "-j", chain)] * jumps
                await netfilter.apply(self._family, [Change(table, {chain: ()}, [*gone, ("-X", chain)])])
        except HostError as error:
            return error
        return None

    async def _write(self, place: tuple[str, str], rules: tuple[Rule, ...]) -> None:
        table, hook = place
        layer = Layer(self._family, table, hook, self._chains[place], Standing.FIRST)
        await layer.write({self._chains[place]: rules}, await layer.read())


def _rules(places: Collection[Place]) -> Iterator[Rule]:
    """One for each stretch of ports, as iptables-save prints them."""
    for protocol in Protocol:
        stretches = in_short(port for port, kind in places if kind is protocol)
        for stretch in filter(None, stretches.split(", ")):
            yield ("-p", protocol.value, "-m", protocol.value, "--dport", stretch.replace("-", ":"))
