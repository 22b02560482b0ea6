"""Raises the walls around tenants' networks, holds them against what others do to the firewall, and takes them down.

The kernel's table is read before every start, so a tenant starts behind walls that stand. What is written wholly is
read back, and later readings are compared with that one: every version of iptables prints rules in its own way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from kaalia.contracts.ports import ipv6_pool
from kaalia.errors import HostError, WorkloadError
from kaalia.host import ipv6, net, netfilter, shaping
from kaalia.host.netfilter import Family
from kaalia.runtime.networking import Mended
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.known import Known
from kaalia.runtime.sandbox.layer import Chains, Layer, Place
from kaalia.runtime.sandbox.rules import Enclosure, Reach

_NOTHING: tuple[str, ...] = ()


class Walls:
    """The walls of one machine's tenants. `look`: the networks that exist, from the engine; raises WorkloadError."""

    def __init__(
        self,
        machine: str,
        reach: Reach,
        pool: str,
        look: Callable[[], Awaitable[Iterable[Enclosure]]],
        root: Path = net.ROOT,
    ) -> None:
        self._own = rules.names(machine)
        self._reach = reach
        self._pools = {Family.IPV4: pool, Family.IPV6: ipv6_pool(machine)}
        self._known = Known(look)
        self._root = root
        self._resolvers: dict[Family, tuple[str, ...]] = {}
        self._lan: tuple[str, ...] = ()
        self._lock = asyncio.Lock()
        self._alarm = asyncio.Event()
        self._ear: netfilter.Ear | None = None
        self._has_paced: set[Layer] = set()
        self._fronts: tuple[Layer, ...] = ()
        self._broken: set[str] = set()
        """Chains that a start found changed, and wrote anew."""
        self._paces = {one: Layer(one, "mangle", "FORWARD", self._own.pace, Place.ANY) for one in Family}
        self._passages = {one: Layer(one, "filter", "FORWARD", self._own.passage, Place.ANY) for one in Family}

    def expect(self, one: Enclosure) -> None:
        """This network exists now."""
        self._known.put(one)

    async def stand(self, contract_id: int) -> None:
        """Walls around this contract's network, before its first packet. Raises WorkloadError `walls_failed`."""
        if not self._known.has_looked or self._known.get(contract_id) is None:
            await self._known.see()
        one = self._known.get(contract_id)
        try:
            if one is None:
                raise HostError(
                    "network_missing",
                    f"cannot find the network kaalia-{contract_id}",
                    remedy="create the workload again; its data stays",
                )
            async with self._lock:
                await asyncio.gather(*(self._enter(layer, one) for layer in await self._layers()))
                if self._reach.bits_per_s is not None:
                    for family in self._spoken():
                        await self._paces[family].hold(self._wanted_pace(family))
                    await shaping.limit(one.bridge, self._reach.bits_per_s)
        except HostError as error:
            raise WorkloadError(
                "walls_failed",
                f"cannot start contract {contract_id} without walls around its network: {error.problem.message}",
                remedy=error.problem.remedy or "see `iptables-save` of the machine",
                evidence=error.problem.evidence,
            ) from error

    def forget(self, contract_id: int) -> None:
        """Its network is gone; its rules go with the next look at all of them."""
        self._known.drop(contract_id)
        self.alarm()

    def alarm(self) -> None:
        """Something may have happened to the firewall: look soon."""
        self._alarm.set()

    async def alarmed(self, timeout_s: float) -> None:
        """Wait for an alarm, `timeout_s` at most."""
        if self._ear is None:
            with suppress(HostError):
                self._ear = netfilter.Ear(self._heard)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._alarm.wait()
        self._alarm.clear()

    def close(self) -> None:
        """Hear no more. The walls stand."""
        if self._ear is not None:
            self._ear.close()
            self._ear = None

    def _heard(self, change: bytes) -> None:
        """Docker changes rules all the time, but none of these."""
        is_first = b"mangle\0" in change and b"PREROUTING\0" in change
        if not change or is_first or self._own.mark.encode() in change:
            self.alarm()

    async def mend(self) -> Mended:
        """Look at everything, and put up again what does not stand. Raises HostError: it does not stand now.

        While the engine is silent the networks are those that were known last.
        """
        try:
            await self._known.see()
        except WorkloadError:
            if not self._known.has_looked:
                return Mended()
        async with self._lock:
            layers = await self._layers()
            for layer in layers:
                await self._learn(layer.family, self._resolvers.get(layer.family, ()))
            wanted = {layer: self._wanted(layer) for layer in layers}
            for family in self._spoken():
                wanted[self._passages[family]] = rules.passage(self._own, self._known.all())
            found = [await layer.hold(chains) for layer, chains in wanted.items()]
            found.append(await self._hold_pace())
        chains = self._broken.union(*found)
        self._broken.clear()
        return Mended(tuple(sorted(chains)))

    async def _hold_pace(self) -> tuple[str, ...]:
        """The owner's limit on every bridge; after the start also none, where an earlier configuration had one."""
        wanted, broken = self._reach.bits_per_s, _NOTHING
        layers = [self._paces[family] for family in self._spoken()]
        if wanted is None and self._has_paced.issuperset(layers):
            return broken
        for layer in layers:
            if wanted is not None or self._own.pace in await layer.read():
                broken += await layer.hold(self._wanted_pace(layer.family))
        self._has_paced.update(layers)
        with suppress(HostError) if wanted is None else nullcontext():
            now = await shaping.limits()
            for bridge in (one.bridge for one in self._known.all() if one.bridge in now):
                if wanted is None and now[bridge] is not None:
                    await shaping.unlimit(bridge)
                elif wanted is not None and now[bridge] != wanted:
                    await shaping.limit(bridge, wanted)
        return broken

    def _wanted_pace(self, family: Family) -> Chains:
        return rules.pace(self._own, self._reach, self._pools[family], family)

    def _spoken(self) -> tuple[Family, ...]:
        """By contracts. Where none has IPv6 nothing of it but the walls' refusal is touched."""
        return tuple(Family) if any(one.subnet6 for one in self._known.all()) else (Family.IPV4,)

    async def _layers(self) -> tuple[Layer, ...]:
        found = await asyncio.to_thread(netfilter.families, self._root)
        known = {layer.family for layer in self._fronts}
        added = tuple(
            Layer(one, "mangle", "PREROUTING", self._own.walls, Place.FIRST) for one in found if one not in known
        )
        for layer in added:
            standing = (await layer.read()).get(self._own.reach, ())
            await self._learn(layer.family, rules.resolvers(standing))
        self._fronts = (*self._fronts, *added)
        return self._fronts

    async def _learn(self, family: Family, before: Iterable[str]) -> None:
        """The name servers that tenants ask. Docker's resolver goes on to ask those of a container's start."""
        now = await asyncio.to_thread(net.resolvers, self._root, rules.KINDS[family].version)
        self._resolvers[family] = tuple(dict.fromkeys((*now, *before))) if self._known.all() else now
        if family is Family.IPV6:
            self._lan = await asyncio.to_thread(ipv6.lan_networks, self._root)

    def _wanted(self, layer: Layer) -> Chains:
        family, pool = layer.family, self._pools[layer.family]
        asked, lan = self._resolvers.get(family, ()), self._lan if family is Family.IPV6 else ()
        return rules.walls(family, self._own, self._reach, pool, asked, self._known.all(), lan)

    async def _enter(self, layer: Layer, one: Enclosure) -> None:
        """The usual way adds what is new and deletes nothing: for a deletion the kernel waits 10 ms (measured)."""
        now = await layer.read()
        entry, broken = rules.entry(layer.family, self._own, one), layer.differences(now)
        if layer.holds(now) and layer.has(entry):
            return
        if layer.holds(now) and not layer.having(one.bridge) and layer.leads_to(entry):
            await layer.add(entry)
        else:
            await layer.write(self._wanted(layer), now)
            self._broken.update(broken)
