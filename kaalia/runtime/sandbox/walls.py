"""Raises the walls around tenants' networks, holds them against what others do to the firewall, and takes them down.

The kernel's table is read before every start, so a tenant starts behind walls that stand. What is written wholly is
read back, and later readings are compared with that one: every version of iptables prints rules in its own way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from kaalia.errors import HostError, WorkloadError
from kaalia.host import net, netfilter, shaping
from kaalia.host.netfilter import Family
from kaalia.runtime.base import Mended
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
        self._pool = pool
        self._known = Known(look)
        self._root = root
        self._resolvers: tuple[str, ...] = ()
        self._lock = asyncio.Lock()
        self._alarm = asyncio.Event()
        self._ear: netfilter.Ear | None = None
        self._has_paced = False
        self._fronts: tuple[Layer, ...] = ()
        self._broken: set[str] = set()
        """Chains that a start found changed, and wrote anew."""
        self._pace = Layer(Family.IPV4, "mangle", "FORWARD", self._own.pace, Place.ANY)
        self._passage = Layer(Family.IPV4, "filter", "FORWARD", self._own.passage, Place.ANY)

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
                    await self._pace.hold(rules.pace(self._own, self._reach, self._pool))
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
            self._resolvers = await self._asked(self._resolvers)
            wanted = {layer: self._wanted(layer) for layer in layers}
            wanted[self._passage] = rules.passage(self._own, self._known.all())
            found = [await layer.hold(chains) for layer, chains in wanted.items()]
            found.append(await self._hold_pace())
        chains = self._broken.union(*found)
        self._broken.clear()
        return Mended(tuple(sorted(chains)))

    async def _hold_pace(self) -> tuple[str, ...]:
        """The owner's limit on every bridge; after the start also none, where an earlier configuration had one."""
        wanted, broken = self._reach.bits_per_s, _NOTHING
        if wanted is None and self._has_paced:
            return broken
        if wanted is not None or self._own.pace in await self._pace.read():
            broken = await self._pace.hold(rules.pace(self._own, self._reach, self._pool))
        self._has_paced = True
        with suppress(HostError) if wanted is None else nullcontext():
            now = await shaping.limits()
            for bridge in (one.bridge for one in self._known.all() if one.bridge in now):
                if wanted is None and now[bridge] is not None:
                    await shaping.unlimit(bridge)
                elif wanted is not None and now[bridge] != wanted:
                    await shaping.limit(bridge, wanted)
        return broken

    async def _layers(self) -> tuple[Layer, ...]:
        found = await asyncio.to_thread(netfilter.families, self._root)
        known = {layer.family for layer in self._fronts}
        added = (Layer(one, "mangle", "PREROUTING", self._own.walls, Place.FIRST) for one in found if one not in known)
        fronts = (*self._fronts, *added)
        if not self._fronts:
            standing = (await fronts[0].read()).get(self._own.reach, ())
            self._resolvers = await self._asked(rules.resolvers(standing))
        self._fronts = fronts
        return fronts

    async def _asked(self, before: Iterable[str]) -> tuple[str, ...]:
        """The name servers that tenants ask. Docker's resolver goes on to ask those of a container's start."""
        now = await asyncio.to_thread(net.resolvers, self._root)
        return tuple(dict.fromkeys((*now, *before))) if self._known.all() else now

    def _wanted(self, layer: Layer) -> Chains:
        return rules.walls(layer.family, self._own, self._reach, self._pool, self._resolvers, self._known.all())

    async def _enter(self, layer: Layer, one: Enclosure) -> None:
        """The usual way adds what is new and deletes nothing: for a deletion the kernel waits 10 ms (measured)."""
        now = await layer.read()
        entry, broken = rules.entry(layer.family, self._own, one), layer.differences(now)
        if layer.holds(now) and layer.has(entry):
            return
        if layer.holds(now) and not layer.having(one.bridge):
            await layer.add(entry)
        else:
            await layer.write(self._wanted(layer), now)
            self._broken.update(broken)
