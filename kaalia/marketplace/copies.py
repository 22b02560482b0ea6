"""Copies: whose files may go where, and the machine that is asked.

Somebody else's instance or volume is not there: 404. A copy from or to the caller's own machine is made by the caller's
rsync, which gets an address for it; of nothing that is copied passes by here.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import copying, relay
from kaalia.marketplace import accounts, copy_notes, errands, instance_keys, instances, volumes
from kaalia.marketplace.context import Context
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routing import Caller
from kaalia.model.copying import CopyEnd, DoorOrder, Holder, HolderKind
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
        machine_id = await _machine_of(tx, caller, end.holder)
        machine = await errands.check_online(context, tx, machine_id, what)
        address = _address(machine, end.holder)
        order = DoorOrder(end.holder, copying.keys(await _keys(tx, caller, end.holder)))
        task = TaskRequest(errands.new_id(), Verb.DOOR, _number(end.holder), now + errands.DEADLINE, door=order)
        await errands.post(tx, machine_id, task, now)
        warning = copying.warning(end) if is_target else ""
        await copy_notes.put(tx, end.holder, machine_id, "copy by rsync: allowed for some minutes", warning, now)
    context.machine_bells.ring(machine_id)
    port = await errands.result(context, task.task_id, what)
    return Door(address, int(port), warning or f"{end.holder} is reached for copies at {address}, port {port}")


async def _machine_of(tx: AsyncConnection, caller: Caller, holder: Holder) -> int:
    """Raises ApiError 404."""
    if holder.kind is HolderKind.INSTANCE:
        return int((await instances.owned(tx, caller, holder.number)).machine_id)
    return int((await volumes.owned(tx, caller, holder.number)).machine_id)


async def _keys(tx: AsyncConnection, caller: Caller, holder: Holder) -> list[str]:
    """The account's, and for an instance those that were attached to it."""
    lines = [str(one["public_key"]) for one in await accounts.ssh_keys_of(tx, caller.user_id)]
    if holder.kind is HolderKind.INSTANCE:
        lines += await instance_keys.lines(tx, holder.number)
    return lines


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
