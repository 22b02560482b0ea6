"""Lets renters copy: opens doors when the marketplace asks for it, and closes them when nobody came for a while.

Costs nothing while nobody copies. Doors and sessions end with the daemon; who copies again goes on where he was.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import Clock
from kaalia.contracts import copying
from kaalia.contracts.contract import Desired
from kaalia.contracts.volume import VolumeDesired
from kaalia.errors import ContractError, HostError, Problem
from kaalia.model.copying import CloudLogin, CloudOrder, CopyOrder, CopyState, CopyStatus, DoorOrder, Holder, HolderKind
from kaalia.service import Tasks, run_forever
from kaalia.store import contracts, outbox, volumes
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.transfer import room
from kaalia.transfer.copier import Copier
from kaalia.transfer.door import Door, Moved, Serve, listen
from kaalia.transfer.gate import DoorGate
from kaalia.transfer.keeper import PortKeeper
from kaalia.transfer.lobby import Lobby
from kaalia.units import format_bytes
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind, TaskRequest, Verb

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""While doors are open: how soon their ends and their progress are noticed."""
DOORS_MAX = 32


CloudLoginSource = Callable[[], Awaitable[CloudLogin]]
"""Asks the marketplace for the login of a copy with a cloud."""


async def _no_login() -> CloudLogin:
    raise ContractError("cloud_login_invalid", "cannot log in to the cloud: no login was given")


@dataclass(frozen=True, slots=True)
class Equipment:
    """What doors are made of. `check`: raises WorkloadError `kit_missing` where nothing can be served."""

    check: Callable[[], object]
    serve: Serve
    by_ipv6: Callable[[], bool]
    host_key: str
    """The public one of its sshd."""
    gate: DoorGate
    copy_key: Callable[[str], str]
    """By copy id, the public key of a copy away."""


class TransferService:
    """`answer` is called by whoever works off the marketplace's requests."""

    name = "transfer"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        keeper: PortKeeper,
        equipment: Equipment,
        copier: Copier,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keeper = keeper
        self._equipment = equipment
        self._copier = copier
        self._bell = changes.subscribe(Topic.CONTRACTS)
        self._doors: dict[Holder, Door] = {}
        self._lobby = Lobby()
        self._accepting = Tasks()
        self._lock = asyncio.Lock()
        self._ready = asyncio.Event()
        """What an earlier daemon left is cleared away."""
        self._told: dict[Holder, Moved] = {}

    async def run(self) -> None:
        await self._keeper.forget()
        await self._equipment.gate.hold([], by_ipv6=await asyncio.to_thread(self._equipment.by_ipv6))
        await self._copier.recover()
        self._ready.set()
        try:
            await run_forever(self.name, self._turn)
        finally:
            await self._copier.close()
            await self._accepting.close()
            for door in self._doors.values():
                await door.close()

    async def answer(self, request: TaskRequest, login: CloudLoginSource = _no_login) -> str:
        """What a request of the marketplace is answered with, as `wire.protocol.Verb` says. Raises KaaliaError."""
        await self._ready.wait()
        match request:
            case TaskRequest(verb=Verb.DOOR, door=DoorOrder() as order):
                return f"{await self.open(order)} {self._equipment.host_key}"
            case TaskRequest(verb=Verb.WITHDRAW_KEYS, door=DoorOrder() as withdrawn):
                return str(await self._withdraw(withdrawn))
            case TaskRequest(verb=Verb.COPY, copy=CopyOrder() as wanted):
                here = [wanted.source.holder, *([wanted.target.holder] if wanted.away is None else [])]
                await self._database.read(lambda tx: _check(tx, *here))
                if wanted.away is None:
                    await self._database.read(lambda tx: _check_room(tx, wanted.target.holder))
                await self._copier.start(wanted)
                self._bell.set()
                return "begun"
            case TaskRequest(verb=Verb.COPY_KEY, copy_id=str() as copy_id):
                return self._equipment.copy_key(copy_id)
            case TaskRequest(verb=Verb.CANCEL_COPY, holder=Holder() as holder):
                return str(await self._cancel(holder))
            case TaskRequest(verb=Verb.CLOUD_COPY, cloud=CloudOrder() as ordered):
                await self._database.read(lambda tx: _check(tx, ordered.place.holder))
                if ordered.lands_here is not None:
                    await self._database.read(lambda tx: _check_room(tx, ordered.place.holder))
                await self._copier.start_cloud(ordered, login)
                self._bell.set()
                return "begun"
            case TaskRequest(verb=Verb.CANCEL_SYNC, holder=Holder() as holder):
                return str(await self._copier.cancel_clouds(holder))
        raise ContractError("verb_unknown", "cannot copy so: this version of kaalia does not know how")

    async def _cancel(self, holder: Holder) -> int:
        """What the renter's own rsync brings is cancelled too."""
        count = await self._copier.cancel(holder)
        async with self._lock:
            door = self._doors.get(holder)
            if door is not None:
                count += door.sessions
                await self._close(door)
        return count

    async def open(self, order: DoorOrder) -> int:
        """The port by which the holder's files are reached from now on.

        Raises ContractError, WorkloadError, HostError.
        """
        keys = copying.keys(order.keys)
        await self._database.read(lambda tx: _check(tx, order.holder))
        problem = await self._database.read(lambda tx: room.problem(tx, order.holder))
        if problem is not None and not order.is_for_reading:
            raise ContractError(problem.code, problem.message, remedy=problem.remedy)
        await asyncio.to_thread(self._equipment.check)
        async with self._lock:
            door = self._doors.get(order.holder) or await self._make(order.holder)
            if problem is not None:
                door.keep_for_reading()
            door.grant(keys, is_read_only=problem is not None)
        self._bell.set()
        return door.port

    async def _withdraw(self, order: DoorOrder) -> int:
        async with self._lock:
            door = self._doors.get(order.holder)
            if door is not None:
                door.withdraw(copying.keys(order.keys))
        return 0 if door is None else 1

    async def _make(self, holder: Holder) -> Door:
        if len(self._doors) >= DOORS_MAX:
            message = f"cannot open {holder} for copies: {len(self._doors)} others are open on this machine"
            raise ContractError("copy_doors_exhausted", message, remedy="copy again in a few minutes")
        by_ipv6 = await asyncio.to_thread(self._equipment.by_ipv6)
        port = await self._keeper.take()
        try:
            listener = listen(port, by_ipv6=by_ipv6)
        except HostError:
            await self._keeper.give_back(port)
            raise
        await self._equipment.gate.hold([port, *(one.port for one in self._doors.values())], by_ipv6=by_ipv6)
        door = self._doors[holder] = Door(
            holder, listener, self._equipment.serve, self._clock, self._doors.values, self._lobby
        )
        self._accepting.start(holder, run_forever(f"door of {holder}", door.accept))
        log.info("copies: %s is reached at port %d", holder, port)
        return door

    async def _turn(self) -> None:
        await wait(self._bell, LOOK_S if self._doors or self._copier.targets else None)
        await self._end_where_no_room_is()
        gone = await self._database.read(lambda tx: [one for one in self._doors if not _is_here(tx, one)])
        async with self._lock:
            for holder, door in list(self._doors.items()):
                await self._progress(door)
                if holder in gone or door.is_due:
                    await self._close(door)

    async def _end_where_no_room_is(self) -> None:
        """Doors are for reading then: what a session will bring is not known, and it brings it at once."""
        holders = {*self._doors, *self._copier.targets}
        found = await self._database.read(lambda tx: {one: room.problem(tx, one) for one in holders})
        for holder, problem in found.items():
            if problem is None:
                continue
            await self._copier.cancel(holder, problem)
            async with self._lock:
                if (door := self._doors.get(holder)) is not None and not door.is_read_only:
                    door.keep_for_reading()
                    await self._tell_end(holder, problem)

    async def _tell_end(self, holder: Holder, problem: Problem) -> None:
        now = self._clock.now()
        status = CopyStatus(f"door-{holder}", holder, CopyState.FAILED, now, "copy by rsync: was ended", problem)
        await self._database.transaction(lambda tx: tell(tx, status, now), Topic.OUTBOX)

    async def _close(self, door: Door) -> None:
        self._accepting.cancel(door.holder)
        await door.close()
        del self._doors[door.holder]
        self._told.pop(door.holder, None)
        by_ipv6 = await asyncio.to_thread(self._equipment.by_ipv6)
        await self._equipment.gate.hold([one.port for one in self._doors.values()], by_ipv6=by_ipv6)
        await self._keeper.give_back(door.port)
        log.info("copies: %s is closed", door.holder)

    async def _progress(self, door: Door) -> None:
        """Tell the renter, in the instance's message, what has come and gone."""
        moved, known = door.moved, self._told.get(door.holder)
        is_over = not door.sessions
        if moved == (known or Moved()) and not (is_over and known is not None):
            return
        state = CopyState.DONE if is_over else CopyState.RUNNING
        text = f"copy by rsync: {format_bytes(moved.received)} received, {format_bytes(moved.sent)} sent"
        now = self._clock.now()
        copy_id = f"door-{door.holder}"
        status = CopyStatus(copy_id, door.holder, state, now, f"{text}, finished" if is_over else text)
        await self._database.transaction(lambda tx: tell(tx, status, now), Topic.OUTBOX)
        if is_over:
            door.forget_moved()
            self._told.pop(door.holder, None)
        else:
            self._told[door.holder] = moved


def tell(tx: Transaction, status: CopyStatus, now: datetime) -> None:
    """The marketplace, which shows it in the instance's message."""
    outbox.add(tx, MessageKind.COPY, document.encode(status), now)


def _is_here(tx: Transaction, holder: Holder) -> bool:
    """It is agreed that this machine keeps these files."""
    if holder.kind is HolderKind.INSTANCE:
        contract = contracts.get(tx, holder.number)
        return contract is not None and contract.desired is not Desired.ENDED
    stored = volumes.get(tx, holder.number)
    return stored is not None and stored.volume.desired is not VolumeDesired.ENDED


def _check_room(tx: Transaction, holder: Holder) -> None:
    if (problem := room.problem(tx, holder)) is not None:
        raise ContractError(problem.code, problem.message, remedy=problem.remedy)


def _check(tx: Transaction, *holders: Holder) -> None:
    for holder in holders:
        if _is_here(tx, holder):
            continue
        message = f"cannot copy: {holder} is not on this machine"
        raise ContractError("copy_holder_unknown", message, remedy="look at `vastai show instances`")
