"""Publishes contracts' ports by chains of kaalia's own, and holds them against what others do to the firewall.

They stand in the kernel: a daemon, or an engine, that is away changes nothing for clients and tenants. A contract's
rules are there from its first start until it is removed, stopped or not, and change in one stroke.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from kaalia.contracts.ports import ipv6_pool
from kaalia.errors import HostError, WorkloadError
from kaalia.host import localnet, net, netfilter
from kaalia.host.netfilter import Family, Saved
from kaalia.model.workload import Protocol
from kaalia.runtime.networking import Mended
from kaalia.runtime.sandbox import port_rules, rules
from kaalia.runtime.sandbox.known import Known
from kaalia.runtime.sandbox.layer import Chains, Layer, Place
from kaalia.runtime.sandbox.port_rules import Publication

log = logging.getLogger(__name__)


class _Side:
    """The chains of one family."""

    def __init__(self, family: Family, own: rules.Names, pool: str) -> None:
        self.family = family
        self.pool = pool
        self.front = Layer(family, "nat", "PREROUTING", own.ports, Place.ANY)
        self.here = Layer(family, "nat", "OUTPUT", own.here, Place.ANY)
        self.sources = Layer(family, "nat", "POSTROUTING", own.sources, Place.ANY)
        self.through = Layer(family, "filter", "FORWARD", own.through, Place.EARLY)
        self.is_used = family is Family.IPV4
        self.is_stale = False
        """Some rules could not be taken away."""
        self.is_shifted = False
        """The rules of FORWARD stand, perhaps behind others."""


class Ports:
    """`look`: what containers that exist want published by kaalia, from the engine; raises WorkloadError."""

    def __init__(
        self,
        machine: str,
        pool: str,
        look: Callable[[], Awaitable[Iterable[Publication]]],
        is_free: Callable[[int, Protocol], bool] = net.is_port_free,
    ) -> None:
        self._own = rules.names(machine)
        self._known = Known(look)
        self._is_free = is_free
        self._lock = asyncio.Lock()
        self._broken: set[str] = set()
        """Chains that a start found changed, and wrote anew."""
        self._four = _Side(Family.IPV4, self._own, pool)
        self._six = _Side(Family.IPV6, self._own, ipv6_pool(machine))
        self._has_met_six = False

    def expect(self, one: Publication) -> None:
        """This container exists now."""
        self._known.put(one)

    def forget(self, contract_id: int) -> None:
        """What is known of it may be old: the engine is asked before its start."""
        self._known.drop(contract_id)

    async def stand(self, contract_id: int) -> None:
        """This contract's ports lead to it, before it starts. Nothing is done for one whose ports Docker publishes.

        Raises WorkloadError `port_taken`, `ports_failed`.
        """
        if not self._known.has_looked or self._known.get(contract_id) is None:
            await self._known.see()
        one = self._known.get(contract_id)
        mark = port_rules.mark(contract_id)
        if one is None or not (one.ports or any(side.front.having(mark) for side in (self._four, self._six))):
            return
        taken = await asyncio.to_thread(self._taken, one)
        if taken:
            raise _taken(contract_id, taken, "another program of the machine listens there")
        try:
            async with self._lock:
                for side in await self._sides():
                    await self._lead(side, one)
                await asyncio.to_thread(localnet.route_localnet, one.enclosure.bridge)
        except HostError as error:
            raise _failed(contract_id, error) from error

    def _taken(self, one: Publication) -> list[tuple[int, Protocol]]:
        is_free6 = net.is_ipv6_port_free if one.enclosure.subnet6 else _always
        return [place for place in sorted(one.places) if not (self._is_free(*place) and is_free6(*place))]

    async def settle(self) -> None:
        """Take the place in FORWARD back that Docker takes whenever it makes a network; a failure is left to `mend`.

        It costs 20 ms, and nothing that starts need wait for it: the rules are there, behind Docker's.
        """
        for side in (self._four, self._six):
            if not side.is_shifted:
                continue
            side.is_shifted = False
            try:
                async with self._lock:
                    await side.through.hold(self._wanted_through(side))
            except HostError as error:
                log.warning("ports: the place in FORWARD is not taken back: %s", error)

    async def withdraw(self, contract_id: int) -> None:
        """Its container is gone: nothing leads there any more, or no port leads anywhere new."""
        self._known.drop(contract_id)
        async with self._lock:
            for side in (self._four, self._six):
                await self._take(side, contract_id)

    async def _take(self, side: _Side, contract_id: int) -> None:
        entry = side.front.having(port_rules.mark(contract_id))
        if not entry:
            return
        try:
            await side.front.take(entry)
        except HostError:
            try:
                await side.front.write(self._wanted(side), await side.front.read())
            except HostError as error:
                side.is_stale = True
                log.warning("ports: rules of contract %d stay for now: %s", contract_id, error)

    async def mend(self) -> Mended:
        """Look at everything, and put up again what does not stand. Raises HostError: it does not stand now.

        While the engine is silent, what was known last is held.
        """
        try:
            await self._known.see()
        except WorkloadError:
            if not self._known.has_looked:
                return Mended()
        async with self._lock:
            found = [chains for side in await self._sides() for chains in await self._hold(side)]
            await asyncio.to_thread(self._open_bridges)
        chains = self._broken.union(*found)
        self._broken.clear()
        return Mended(tuple(sorted(chains)))

    async def published(self) -> Mapping[int, frozenset[tuple[int, Protocol]]]:
        """By contract: the ports that lead to it now by IPv4, as the kernel has it. Raises HostError."""
        now = await self._four.front.read()
        is_joined = any(rule.text == f"-j {self._own.ports}" for rule in now.get("PREROUTING", ()))
        return port_rules.published(now.get(self._own.ports, ())) if is_joined else {}

    async def _sides(self) -> tuple[_Side, ...]:
        """Both families once a contract has IPv6, or had it and its rules may still stand; else nothing is touched."""
        if not self._six.is_used:
            self._six.is_used = any(one.enclosure.subnet6 for one in self._known.all()) or await self._left_six()
        return (self._four, self._six) if self._six.is_used else (self._four,)

    async def _left_six(self) -> bool:
        if self._has_met_six or Family.IPV6 not in await asyncio.to_thread(netfilter.families):
            return False
        try:
            found = await self._six.front.read()
        except HostError:  # none of ours were ever written
            return False
        self._has_met_six = True
        return self._own.ports in found

    async def _hold(self, side: _Side) -> list[tuple[str, ...]]:
        nat, passing = await asyncio.gather(side.front.read(), side.through.read())
        found = [await side.front.hold(self._wanted(side), nat), *await self._hold_rest(side, nat, passing)]
        side.is_stale = False
        return found

    async def _lead(self, side: _Side, one: Publication) -> None:
        nat, passing = await asyncio.gather(side.front.read(), side.through.read())
        await self._enter(side, one, nat)
        side.is_shifted = side.through.stands(self._wanted_through(side), passing)
        self._broken.update(*await self._hold_rest(side, nat, None if side.is_shifted else passing))

    async def _enter(self, side: _Side, one: Publication, now: Saved) -> None:
        """The usual way adds what is new and deletes nothing, as with walls."""
        holds, face = side.front.holds(now) and not side.is_stale, port_rules.face(one, side.family)
        entry = port_rules.entry(face) if face is not None else ()
        before = side.front.having(port_rules.mark(one.contract_id))
        if holds and before == entry:
            return
        if side.is_stale or self._shared(one):
            await self._known.see()
            if shared := self._shared(one):
                raise _taken(one.contract_id, sorted(shared), "the container of another contract has it")
        elif holds and not before:
            await side.front.add(entry)
            return
        self._broken.update(side.front.differences(now))
        await side.front.write(self._wanted(side), now)
        side.is_stale = False

    def _shared(self, one: Publication) -> frozenset[tuple[int, Protocol]]:
        others = [other.places for other in self._known.all() if other.contract_id != one.contract_id]
        return one.places.intersection(frozenset().union(*others))

    async def _hold_rest(self, side: _Side, nat: Saved, passing: Saved | None) -> list[tuple[str, ...]]:
        """The chains without rules of single contracts. HERE jumps to PORTS, so that one comes first.

        `passing` None: those of FORWARD are left for later.
        """
        sources = port_rules.sources(self._own, side.pool, self._faces(side))
        return [
            await side.here.hold(port_rules.here(self._own), nat),
            await side.sources.hold(sources, nat),
            await side.through.hold(self._wanted_through(side), passing) if passing is not None else (),
        ]

    def _faces(self, side: _Side) -> list[Publication]:
        faces = (port_rules.face(one, side.family) for one in self._known.all())
        return [one for one in faces if one is not None]

    def _wanted_through(self, side: _Side) -> Chains:
        return port_rules.through(self._own, side.pool, self._faces(side))

    def _wanted(self, side: _Side) -> Chains:
        return port_rules.ports(self._own, side.pool, self._faces(side))

    def _open_bridges(self) -> None:
        """A boot, or an engine that makes a bridge anew, closes them to clients at 127.0.0.1."""
        for one in self._known.all():
            if one.ports and localnet.routes_localnet(one.enclosure.bridge) is False:
                localnet.route_localnet(one.enclosure.bridge)


def _always(_port: int, _protocol: Protocol) -> bool:
    return True


def _taken(contract_id: int, places: Iterable[tuple[int, Protocol]], why: str) -> WorkloadError:
    names = ", ".join(f"{port}/{protocol}" for port, protocol in places)
    return WorkloadError(
        "port_taken",
        f"cannot publish {names} for contract {contract_id}: {why}",
        remedy="find it with `ss -lntup` and keep it out of the machine's port range",
    )


def _failed(contract_id: int, error: HostError) -> WorkloadError:
    return WorkloadError(
        "ports_failed",
        f"cannot start contract {contract_id} without its ports: {error.problem.message}",
        remedy=error.problem.remedy or "see `iptables-save` of the machine",
        evidence=error.problem.evidence,
    )
