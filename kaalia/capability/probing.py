"""One probe of the whole range: batch after batch, listen, let the prober try, check what it says.

Of a small range at most a quarter is bound at once. An order of the batches by chance is of no use: each is short.
All batches are of one address: a probe during which it changes begins anew.
"""

import asyncio
import contextlib
import ipaddress
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol as Interface

from kaalia.clock import Clock
from kaalia.contracts import reach
from kaalia.contracts.reach import Facts, Sight
from kaalia.errors import KaaliaError, MarketplaceError, UnreachableError
from kaalia.host import hairpin, system
from kaalia.host.answering import Answering
from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome, Place, PortMap
from kaalia.model.workload import Protocol
from kaalia.store import claims
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database
from kaalia.wire import probe as wire
from kaalia.wire.probe import NONCE_BYTES, ProbeReply, ProbeRequest, ProbeTarget

PATIENCE_S = 300.0
"""For one batch: how long a prober may say that it has no time now, before the probe is given up."""
WAIT_MIN_S = 0.01
_LATER = frozenset({429, 503})
_CHANCE = random.SystemRandom()
"""Those who were refused together do not come again together."""
BEGINNINGS = 3
"""A machine whose ways out alternate has no one address whose ports could be proven."""

Ask = Callable[[ProbeRequest], Awaitable[ProbeReply]]
Tell = Callable[[int, int], Awaitable[None]]

_KINDS = {ClaimKind.PORT_TCP: Protocol.TCP, ClaimKind.PORT_UDP: Protocol.UDP}


class _AddressChangedError(UnreachableError):
    """In the middle of a probe."""


class Gate(Interface):
    """The way past this machine's own firewall, see `gate.FirewallGate`."""

    async def open(self, free: Collection[Place], held: Collection[Place]) -> bool: ...

    async def has_counted(self) -> bool | None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Machine:
    """The daemon's own side."""

    database: Database
    answering: Answering
    clock: Clock
    port_range: PortRange
    public_ip: str | None
    gate: Gate


@dataclass(slots=True)
class _Run:
    """What one probe gathers. `secret` never leaves this process."""

    machine: Machine
    ask: Ask
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES), repr=False)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES), repr=False)
    address: str | None = None
    """What to name in requests; None: the address that they come from."""
    sights: dict[Place, Sight] = field(default_factory=dict)
    held: dict[Place, int] = field(default_factory=dict)
    used: dict[Place, str] = field(default_factory=dict)
    arrived: set[Place] = field(default_factory=set)
    may_be_own_firewall: bool = False

    def answer(self, port: int, protocol: Protocol, data: bytes) -> bytes | None:
        asked = wire.read_question(self.nonce, protocol, data)
        if asked is None:
            return None
        self.arrived.add((asked.port, protocol))
        return wire.answer(self.nonce, self.secret, protocol, port, asked.challenge)


async def probe(
    machine: Machine, ask: Ask, name: str, earlier: PortMap | None, local_ips: Collection[str], tell: Tell
) -> PortMap:
    """The map, without findings. Raises MarketplaceError, KaaliaError `prober_lied`, OSError."""
    for _ in range(BEGINNINGS - 1):
        with contextlib.suppress(_AddressChangedError):
            return await _probe(_Run(machine, ask), name, earlier, local_ips, tell)
    return await _probe(_Run(machine, ask), name, earlier, local_ips, tell)


async def _probe(run: _Run, name: str, earlier: PortMap | None, local_ips: Collection[str], tell: Tell) -> PortMap:
    machine, where = run.machine, await _introduce(run)
    places = reach.places(machine.port_range)
    step = reach.batch_size(len(places))
    works: bool | None = None
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for start in range(0, len(places), step):
        await tell(start, len(places))
        await asyncio.sleep(max(0.0, began_s + reach.due_s(start) - loop.time()))
        works = await _patient_batch(run, places[start : start + step], where.address, works)
    again = [place for place, sight in run.sights.items() if sight.outcome is Outcome.SILENT and place not in run.held]
    if len(again) <= reach.AGAIN_MAX:
        for start in range(0, len(again), step):
            await _patient_batch(run, again[start : start + step], where.address, works)
    await tell(len(places), len(places))
    facts = Facts(
        probed_at=machine.clock.now(),
        prober=name,
        port_range=machine.port_range,
        configured_ip=machine.public_ip,
        address=where.address,
        seen_address=where.seen_address,
        held=run.held,
        used=await _named(run.used),
        arrived=run.arrived,
        hairpin=None if where.address in local_ips else works,
        may_be_own_firewall=run.may_be_own_firewall,
    )
    # The largest range has 130,000 places.
    return await asyncio.to_thread(reach.judge, facts, run.sights, earlier)


async def _introduce(run: _Run) -> ProbeReply:
    """Which address the prober sees; it may refuse to try the configured one."""
    run.address = run.machine.public_ip
    request = ProbeRequest(run.nonce.hex(), (), run.address)
    try:
        where = await run.ask(request)
    except MarketplaceError as error:
        if error.code != "probe_address_foreign" or run.address is None:
            raise
        run.address = None
        where = await run.ask(replace(request, address=None))
    for told in (where.address, where.seen_address):
        _check_address(told)
    return where


async def _patient_batch(run: _Run, places: Sequence[Place], address: str, works: bool | None) -> bool | None:
    """Like `_batch`, and again when the prober has no time for it now. No port is bound while it waits."""
    left_s = PATIENCE_S
    while True:
        try:
            return await _batch(run, places, address, works)
        except MarketplaceError as error:
            if error.status not in _LATER or error.retry_after_s is None or error.retry_after_s > left_s:
                raise
            wait_s = max(error.retry_after_s, WAIT_MIN_S) * _CHANCE.uniform(1.0, 1.5)
        left_s -= wait_s
        await asyncio.sleep(wait_s)


async def _batch(run: _Run, places: Iterable[Place], address: str, works: bool | None) -> bool | None:
    """Try these; returns whether this machine reaches itself, as soon as a port can tell."""
    held = await _held(run)
    answering = run.machine.answering
    free = [place for place in places if place not in held]
    try:
        taken = await answering.open(free, run.answer)
        late = await _held(run)  # a contract may have got one between look and bind
        for place in late.keys() & answering.places:
            answering.release(place)
        run.held.update({place: late[place] for place in places if place in late})
        run.used.update({place: "" for place in taken if place not in late})
        listening = [place for place in free if place in answering.places]
        watched = [place for place in places if place in run.held and place[1] is Protocol.TCP]
        targets = [ProbeTarget(*place) for place in listening]
        targets += [ProbeTarget(*place, connect_only=True) for place in watched]
        if targets:
            is_open = await run.machine.gate.open(listening, watched)
            reply = await run.ask(ProbeRequest(run.nonce.hex(), tuple(targets), run.address))
            if reply.address != address:
                raise _changed(address, reply.address)
            kept = {*answering.places, *watched}  # one that was given up meanwhile tells nothing
            run.sights.update({place: sight for place, sight in _checked(run, targets, reply).items() if place in kept})
            if listening and not run.arrived:
                run.may_be_own_firewall |= not is_open or await run.machine.gate.has_counted() is not False
        if works is None:
            works = await _reaches_itself(run, address)
        return works
    finally:
        await _shut(run.machine)


async def _shut(machine: Machine) -> None:
    """The firewall first: no other program of this machine gets a port that it leaves open."""
    try:
        await machine.gate.close()
    finally:
        machine.answering.close()


def _checked(run: _Run, targets: list[ProbeTarget], reply: ProbeReply) -> Mapping[Place, Sight]:
    """Raises KaaliaError `prober_lied`: it claims what this machine knows to be false."""
    asked = {(target.port, target.protocol): target for target in targets}
    found: dict[Place, Sight] = {}
    for result in reply.results:
        place = result.port, result.protocol
        if place not in asked or place in found:
            raise _lied(f"it tells of port {result.port}/{result.protocol}, which it was not asked for")
        if result.outcome is Outcome.ANSWERED and not wire.is_proof(run.secret, result):
            raise _lied(f"port {result.port}/{result.protocol} answered, it says, and shows a proof that is none")
        if result.outcome is Outcome.CONNECTED and not asked[place].connect_only:
            raise _lied(f"it only connected to port {result.port}/{result.protocol}, which was to be asked")
        found[place] = Sight(result.outcome, result.answered_port)
    if missing := asked.keys() - found.keys():
        raise _lied(f"it says nothing of {len(missing)} of {len(asked)} ports")
    return found


async def _reaches_itself(run: _Run, address: str) -> bool | None:
    """Hairpin: by one port that the prober reached. None: there is none in this batch."""
    for place in run.machine.answering.places:
        sight = run.sights.get(place)
        if place[1] is Protocol.TCP and sight is not None and sight.outcome is Outcome.ANSWERED:
            challenge = secrets.token_bytes(wire.PART_BYTES)
            text = wire.question(run.nonce, Protocol.TCP, place[0], challenge)
            data = await hairpin.exchange(address, place[0], text, wire.MESSAGE_BYTES)
            return data is not None and wire.read_answer(run.nonce, Protocol.TCP, challenge, data) is not None
    return None


async def _held(run: _Run) -> dict[Place, int]:
    rows = await run.machine.database.read(claims.of_contracts)
    return {(int(row.key), _KINDS[row.kind]): row.contract_id for row in rows if row.kind in _KINDS}


async def _named(used: Mapping[Place, str]) -> dict[Place, str]:
    if not used:
        return {}
    users = await asyncio.to_thread(system.port_users)
    return {(port, protocol): f"used by {users.get((port, protocol.value), 'a program')}" for port, protocol in used}


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise _lied(f"it calls {text[:60]!r} the address of this machine") from error


def _changed(before: str, now: str) -> _AddressChangedError:
    return _AddressChangedError(
        "probe_address_changes",
        f"cannot probe the ports of one address: the prober tried {before} first, then {now[:60]}",
        remedy="give this machine one way out to the prober, or set ports.public_ip; see docs/ports.md",
    )


def _lied(why: str) -> KaaliaError:
    return KaaliaError(
        "prober_lied",
        f"cannot believe the prober: {why}",
        remedy="use another prober (probe.url); what an honest one proved before still counts",
    )
