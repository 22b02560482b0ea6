"""Copies: whose files may go where, and the machine that is asked.

Somebody else's instance or volume is not there: 404. A copy from or to the caller's own machine is made by the caller's
rsync, which gets an address for it; of nothing that is copied passes by here.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import copying, relay
from kaalia.marketplace import copy_keys, copy_notes, errands, instances, volumes
from kaalia.marketplace.context import Context
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routing import Caller
from kaalia.model.copying import CopyDestination, CopyEnd, CopyOrder, DoorOrder, Holder, HolderKind
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskRequest, Verb


@dataclass(frozen=True, slots=True)
class Wanted:
    """Both ends as the caller named them; None: the caller's own machine."""

    source: CopyEnd | None
    target: CopyEnd | None


@dataclass(frozen=True, slots=True)
class Door:
    """Where rsync goes. `msg`: what the caller should know."""

    address: str
    port: int
    msg: str


def wanted(body: dict[str, Any]) -> Wanted:
    """Raises ContractError `copy_place_invalid`, `copy_path_invalid`, ApiError 400 `copy_both_local`."""
    source, target = _end(body, "src"), _end(body, "dst")
    if source is None and target is None:
        message = "cannot copy: both places are on your own machine"
        raise ApiError(400, "copy_both_local", message, remedy="Name an instance: C.ID:/path")
    if source is not None and target is not None:
        copying.check_apart(source, target)
    return Wanted(source, target)


async def open_door(context: Context, caller: Caller, end: CopyEnd, *, is_target: bool) -> Door:
    """Let the caller's rsync in to the files of one of his instances or volumes, for some minutes.

    Raises ApiError 404 `no_such_instance`, `no_such_volume`, 409 `machine_offline`, `copy_no_address` and the machine's
    own codes, 504; ContractError `copy_keys_missing`.
    """
    now, what = context.clock.now(), f"copy from or to {end.holder}"
    async with context.engine.begin() as tx:
        machine = await online(context, tx, caller, end.holder, what)
        keys = copying.keys(await copy_keys.of(tx, caller.user_id, end.holder))
        warning = copying.warning(end) if is_target else ""
        await copy_notes.put(tx, end.holder, machine.id, "copy by rsync: allowed for some minutes", warning, now)
    away = await _door(context, machine, DoorOrder(end.holder, keys, is_for_reading=not is_target), what)
    msg = warning or f"{end.holder} is reached for copies at {away.host}, port {away.port}"
    return Door(away.host, away.port, msg)


async def begin(context: Context, caller: Caller, source: CopyEnd, target: CopyEnd) -> str:
    """Copy between two of the caller's instances or volumes, of one machine or of two; what he should know.

    It goes on when this has returned: its course and its end stand in the messages of both instances. Between machines
    the one that has the source logs in to a door of the other, by a key that it made for this copy.

    Raises ApiError and ContractError as `open_door`.
    """
    what, copy_id = f"copy from {source.holder} to {target.holder}", secrets.token_hex(16)
    async with context.engine.begin() as tx:
        sender = await online(context, tx, caller, source.holder, what)
        receiver = await online(context, tx, caller, target.holder, what)
        owners = await copy_keys.of(tx, caller.user_id, target.holder)
    away = None
    if sender.id != receiver.id:
        _address(receiver, target.holder)
        key = await ask(context, sender.id, Verb.COPY_KEY, source.holder, what, copy_id=copy_id)
        away = await _door(context, receiver, DoorOrder(target.holder, copying.keys([key, *owners])), what)
    warning, now = copying.warning(target), context.clock.now()
    async with context.engine.begin() as tx:
        for holder in dict.fromkeys((source.holder, target.holder)):
            note = warning if holder == target.holder else ""
            await copy_notes.put(tx, holder, sender.id, f"{what}: asked for", note, now)
    order = CopyOrder(copy_id, source, target, away)
    await ask(context, sender.id, Verb.COPY, source.holder, what, copy=order)
    return warning or f"{what} has begun"


async def cancel(context: Context, caller: Caller, target: Holder) -> str:
    """End all copies to one of the caller's instances or volumes. Raises ApiError 404 `copy_unknown` and others."""
    what = f"cancel copies to {target}"
    async with context.engine.begin() as tx:
        await machine_of(tx, caller, target)
        machine_id = await copy_notes.machine_of(tx, target)
        if machine_id is not None:
            await errands.check_online(context, tx, machine_id, what)
    count = "0"
    if machine_id is not None:
        count = await ask(context, machine_id, Verb.CANCEL_COPY, target, what, holder=target)
    if count == "0":
        message = f"cannot {what}: none goes on"
        raise ApiError(404, "copy_unknown", message, remedy="The instance's message tells of its newest copy")
    return f"{count} cancelled"


async def _door(context: Context, machine: MachineRecord, order: DoorOrder, what: str) -> CopyDestination:
    """A port of that machine by which the owners of these keys reach these files. Raises ApiError."""
    address = _address(machine, order.holder)
    told = await ask(context, machine.id, Verb.DOOR, order.holder, what, door=order)
    port, _, host_key = told.partition(" ")
    if not port.isdecimal():
        raise ApiError(502, "machine_answer_invalid", f"cannot {what}: its machine answered what is no port")
    return CopyDestination(address, int(port), host_key)


async def ask(context: Context, machine_id: int, verb: Verb, about: Holder, what: str, **order: Any) -> str:
    """A machine's answer to a one-shot request. Raises ApiError."""
    now = context.clock.now()
    task = TaskRequest(errands.new_id(), verb, _number(about), now + errands.DEADLINE, **order)
    async with context.engine.begin() as tx:
        await errands.post(tx, machine_id, task, now)
    context.machine_bells.ring(machine_id)
    return await errands.result(context, task.task_id, what)


async def online(context: Context, tx: AsyncConnection, caller: Caller, holder: Holder, what: str) -> MachineRecord:
    """The machine that has one of the caller's. Raises ApiError 404, 409 `machine_offline`."""
    return await errands.check_online(context, tx, await machine_of(tx, caller, holder), what)


async def machine_of(tx: AsyncConnection, caller: Caller, holder: Holder) -> int:
    """Raises ApiError 404."""
    if holder.kind is HolderKind.INSTANCE:
        return int((await instances.owned(tx, caller, holder.number)).machine_id)
    return int((await volumes.owned(tx, caller, holder.number)).machine_id)


def _address(machine: MachineRecord, holder: Holder) -> str:
    """Raises ApiError 409 `copy_no_address`."""
    network = machine.report.network if machine.report is not None else None
    if network is None or network.public_ip is None or not relay.has_direct_ports(network):
        raise ApiError(
            409,
            "copy_no_address",
            f"cannot copy from or to {holder}: its machine has no port that is reached from outside",
            remedy="Copy by scp or rsync over the instance's own ssh, which a relay may lead to: `vastai ssh-url ID`",
        )
    return network.public_ip


def _end(body: dict[str, Any], side: str) -> CopyEnd | None:
    holder = copying.holder(f"{side}_id", body.get(f"{side}_id"))
    if holder is None:
        return None
    return CopyEnd(holder, copying.path(f"{side}_path", body.get(f"{side}_path")))


def _number(holder: Holder) -> int:
    """Of the contract, for the machine's log."""
    return holder.number if holder.kind is HolderKind.INSTANCE else 0
