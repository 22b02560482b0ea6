"""Publishes contracts' ports by chains of kaalia's own, and holds them against what others do to the firewall.

They stand in the kernel: a daemon, or an engine, that is away changes nothing for clients and tenants. A contract's
rules are there from its first start until it is removed, stopped or not, and change in one stroke.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from kaalia.errors import HostError, WorkloadError
from kaalia.host import localnet, net
from kaalia.host.netfilter import Family, Saved
from kaalia.model.workload import Protocol
from kaalia.runtime.base import Mended
from kaalia.runtime.sandbox import port_rules, rules
from kaalia.runtime.sandbox.known import Known
from kaalia.runtime.sandbox.layer import Chains, Layer, Place
from kaalia.runtime.sandbox.port_rules import Publication

log = logging.getLogger(__name__)


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
        self._pool = pool
        self._known = Known(look)
        self._is_free = is_free
        self._lock = asyncio.Lock()
        self._broken: set[str] = set()
        """Chains that a start found changed, and wrote anew."""
        self._is_stale = False
        """Some rules could not be taken away."""
        self._is_shifted = False
        """The rules of FORWARD stand, perhaps behind others."""
        self._front = Layer(Family.IPV4, "nat", "PREROUTING", self._own.ports, Place.ANY)
        self._here = Layer(Family.IPV4, "nat", "OUTPUT", self._own.here, Place.ANY)
        self._sources = Layer(Family.IPV4, "nat", "POSTROUTING", self._own.sources, Place.ANY)
        self._through = Layer(Family.IPV4, "filter", "FORWARD", self._own.through, Place.EARLY)

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
        if one is None or not (one.ports or self._front.having(port_rules.mark(contract_id))):
            return
        taken = await asyncio.to_thread(lambda: [place for place in sorted(one.places) if not self._is_free(*place)])
        if taken:
            raise _taken(contract_id, taken, "another program of the machine listens there")
        try:
            async with self._lock:
                await self._lead(one)
                await asyncio.to_thread(localnet.route_localnet, one.enclosure.bridge)
        except HostError as error:
            raise _failed(contract_id, error) from error

    async def settle(self) -> None:
        """Take the place in FORWARD back that Docker takes whenever it makes a network; a failure is left to `mend`.

        It costs 20 ms, and nothing that starts need wait for it: the rules are there, behind Docker's.
        """
        if not self._is_shifted:
            return
        self._is_shifted = False
        try:
            async with self._lock:
                await self._through.hold(self._wanted_through())
        except HostError as error:
            log.warning("ports: the place in FORWARD is not taken back: %s", error)

    async def withdraw(self, contract_id: int) -> None:
        """Its container is gone: nothing leads there any more, or no port leads anywhere new."""
        self._known.drop(contract_id)
        async with self._lock:
            entry = self._front.having(port_rules.mark(contract_id))
            if not entry:
                return
            try:
                await self._front.take(entry)
            except HostError:
                try:
                    await self._front.write(self._wanted(), await self._front.read())
                except HostError as error:
                    self._is_stale = True
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
            nat, passing = await asyncio.gather(self._front.read(), self._through.read())
            found = [await self._front.hold(self._wanted(), nat), *await self._hold_rest(nat, passing)]
            self._is_stale = False
            await asyncio.to_thread(self._open_bridges)
        chains = self._broken.union(*found)
        self._broken.clear()
        return Mended(tuple(sorted(chains)))

    async def published(self) -> Mapping[int, frozenset[tuple[int, Protocol]]]:
        """By contract: the ports that lead to it now, as the kernel has it. Raises HostError."""
        now = await self._front.read()
        is_joined = any(rule.text == f"-j {self._own.ports}" for rule in now.get("PREROUTING", ()))
        return port_rules.published(now.get(self._own.ports, ())) if is_joined else {}

    async def _lead(self, one: Publication) -> None:
        nat, passing = await asyncio.gather(self._front.read(), self._through.read())
        await self._enter(one, nat)
        self._is_shifted = self._through.stands(self._wanted_through(), passing)
        self._broken.update(*await self._hold_rest(nat, None if self._is_shifted else passing))

    async def _enter(self, one: Publication, now: Saved) -> None:
        """The usual way adds what is new and deletes nothing, as with walls."""
        entry, holds = port_rules.entry(one), self._front.holds(now) and not self._is_stale
        before = self._front.having(port_rules.mark(one.contract_id))
        if holds and before == entry:
            return
        if self._is_stale or self._shared(one):
            await self._known.see()
            if shared := self._shared(one):
                raise _taken(one.contract_id, sorted(shared), "the container of another contract has it")
        elif holds and not before:
            await self._front.add(entry)
            return
        self._broken.update(self._front.differences(now))
        await self._front.write(self._wanted(), now)
        self._is_stale = False

    def _shared(self, one: Publication) -> frozenset[tuple[int, Protocol]]:
        others = [other.places for other in self._known.all() if other.contract_id != one.contract_id]
        return one.places.intersection(frozenset().union(*others))

    async def _hold_rest(self, nat: Saved, passing: Saved | None) -> list[tuple[str, ...]]:
        """The chains without rules of single contracts. HERE jumps to PORTS, so that one comes first.

        `passing` None: those of FORWARD are left for later.
        """
        known = self._known.all()
        return [
            await self._here.hold(port_rules.here(self._own), nat),
            await self._sources.hold(port_rules.sources(self._own, self._pool, known), nat),
            await self._through.hold(self._wanted_through(), passing) if passing is not None else (),
        ]

    def _wanted_through(self) -> Chains:
        return port_rules.through(self._own, self._pool, self._known.all())

    def _wanted(self) -> Chains:
        return port_rules.ports(self._own, self._pool, self._known.all())

    def _open_bridges(self) -> None:
        """A boot, or an engine that makes a bridge anew, closes them to clients at 127.0.0.1."""
        for one in self._known.all():
            if one.ports and localnet.routes_localnet(one.enclosure.bridge) is False:
                localnet.route_localnet(one.enclosure.bridge)


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
