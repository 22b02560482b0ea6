"""The renter's view of contracts, and what a renter may change: running or stopped, label, reboot, end.

An instance that is another's, or ended, is not there: 404. Every change raises the machine's revision in the same
transaction; the machine's bell rings after it.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import lease, pricing
from kaalia.contracts.contract import Contract, Desired, is_expired
from kaalia.contracts.maintenance import open_windows
from kaalia.contracts.offer import Listing
from kaalia.marketplace import (
    copy_notes,
    deposits,
    listings,
    liveness,
    machines,
    relays,
    snapshot_notes,
    templates,
    traffic,
    volumes,
)
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import api_keys, contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routing import Caller
from kaalia.model.verification import Cause
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.units import GB
from kaalia.wire import contract as wire
from kaalia.wire import document
from kaalia.wire.error import ApiError

Row = sa.Row[Any]

_ENDED_BY_ITSELF = (WorkloadState.EXITED, WorkloadState.FAILED)


async def rows(context: Context, caller: Caller, instance_id: int | None = None) -> list[dict[str, Any]]:
    """The caller's instances as the API shows them, oldest first; only one of them when `instance_id` is given."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        found = (await tx.execute(_mine(caller, None if instance_id is None else [instance_id]))).all()
        ids = {row.machine_id for row in found}
        owners = {machine_id: await machines.get(tx, machine_id) for machine_id in ids}
        names = await templates.names(tx, {row.template_id for row in found if row.template_id is not None})
        agreed = {row.id: document.decode(Contract, row.document) for row in found}
        mounts = await volumes.mounts(tx, agreed)
        charged = await traffic.charged(tx, list(agreed))
        relayed = await relays.reached_by(tx, agreed.keys())
        notes = (await copy_notes.notes(tx, agreed.keys(), now), await snapshot_notes.notes(tx, agreed.keys(), now))
    told = [_instance(context, row, owners[row.machine_id], names, now) for row in found]
    copied = {number: "; ".join(one[number] for one in notes if number in one) for number in agreed}
    told = [replace(one, copied=copied[one.contract.contract_id]) for one in told]
    shown = [wire.encode(replace(one, relayed=relayed.get(one.contract.contract_id)), now) for one in told]
    return [{**row, **wire.traffic(charged[row["id"]]), "volume_info": mounts[row["id"]]} for row in shown]


async def find(tx: AsyncConnection, caller: Caller, instance_id: int) -> Row | None:
    """The contract row of one live instance of the caller's, locked until the transaction ends."""
    row: Row | None = (await tx.execute(_mine(caller, [instance_id]).with_for_update())).one_or_none()
    return row


async def set_state(context: Context, caller: Caller, instance_ids: Collection[int], desired: Desired) -> None:
    """Start or stop instances, all or none. A start waits on the machine until the GPUs are free.

    Starting one whose process has ended by itself, or never came up, is a restart: the machine would leave it ended.
    Raises ApiError 404 `no_such_instance`, 400 `contract_expired`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        found = await _all_owned(tx, caller, instance_ids)
        for row in found:
            contract = document.decode(Contract, row.document)
            if desired is Desired.RUNNING:
                check_not_expired("start", contract, now)
            changed = replace(contract, desired=desired)
            status = status_of(row)
            if desired is Desired.RUNNING and status is not None and status.state in _ENDED_BY_ITSELF:
                changed = _restarted(changed, status)
            if changed != contract:
                await change(tx, row, changed, now)
    _ring(context, found)


async def set_label(context: Context, caller: Caller, instance_id: int, label: str | None) -> None:
    """Label an instance; None takes the label away. Raises ApiError 404."""
    async with context.engine.begin() as tx:
        row = await owned(tx, caller, instance_id)
        await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(label=label))


async def reboot(context: Context, caller: Caller, instance_id: int) -> None:
    """Stop and start the container after this moment, whatever the machine has done by now and could not tell yet.

    Requests that the machine finds together are done by one reboot.

    Raises ApiError 404 `no_such_instance`, 400 `contract_expired` or `not_running`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        check_not_expired("reboot", contract, now)
        if contract.desired is not Desired.RUNNING:
            message = f"cannot reboot instance {instance_id}: it is stopped"
            raise ApiError(400, "not_running", message, remedy=f"Start it: `vastai start instance {instance_id}`")
        await change(tx, row, replace(contract, restart_count=contract.restart_count + 1), now)
    context.machine_bells.ring(row.machine_id)


async def destroy(context: Context, caller: Caller, instance_ids: Collection[int]) -> None:
    """End contracts, all or none: they vanish here at once, and the machine removes containers and data.

    A reserved one that ends before its time costs the discount that it had.

    Ending one that has ended is a success, since clients repeat requests. Raises ApiError 404 `no_such_instance`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        found = await _all_owned(tx, caller, instance_ids, live_only=False)
        for row in found:
            if row.ended_at is not None:
                continue
            if not is_expired(document.decode(Contract, row.document), now):
                await deposits.close(tx, row, now)
            await _end(tx, row, now)
    _ring(context, found)


async def delete_expired(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    """End the machine's contracts that expired 48 h ago or earlier; how many. Their data go with them, for good.

    Ring the machine's bell after the commit.
    """
    query = sa.select(contracts).where(contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None))
    rows = (await tx.execute(query.order_by(contracts.c.id).with_for_update())).all()
    old = [row for row in rows if lease.is_deletable(document.decode(Contract, row.document), now)]
    for row in old:
        await _end(tx, row, now)
    return len(old)


async def end_all(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    """End every contract of a machine; how many. Ring the machine's bell after the commit."""
    alive = sa.and_(contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None))
    rows = (await tx.execute(sa.select(contracts).where(alive).order_by(contracts.c.id).with_for_update())).all()
    for row in rows:
        await _end(tx, row, now)
    return len(rows)


async def _end(tx: AsyncConnection, row: Row, now: datetime) -> None:
    await tx.execute(
        sa.update(contracts).where(contracts.c.id == row.id).values(ended_at=now.timestamp(), image_login=None)
    )
    await tx.execute(sa.delete(api_keys).where(api_keys.c.instance_id == row.id))
    await change(tx, row, replace(document.decode(Contract, row.document), desired=Desired.ENDED), now)


def check_not_expired(verb: str, contract: Contract, now: datetime) -> None:
    """Raises ApiError 400 `contract_expired`."""
    if is_expired(contract, now):
        ended = f"{contract.end_at:%Y-%m-%d %H:%M} UTC"
        message = f"cannot {verb} instance {contract.contract_id}: its contract expired at {ended}"
        raise ApiError(400, "contract_expired", message, remedy="Copy the data and rent another offer")


def status_of(row: Row) -> WorkloadStatus | None:
    """The machine's newest word on a contract."""
    return None if row.status is None else document.decode(WorkloadStatus, row.status)


def _restarted(contract: Contract, status: WorkloadStatus) -> Contract:
    """With one more restart asked for; as it is while an earlier one is still to be done."""
    done = status.restarts_done
    return replace(contract, restart_count=contract.restart_count + 1) if contract.restart_count <= done else contract


def _mine(caller: Caller, instance_ids: Collection[int] | None, live_only: bool = True) -> sa.Select[Any]:
    query = sa.select(contracts).where(contracts.c.user_id == caller.user_id).order_by(contracts.c.id)
    if live_only:
        query = query.where(contracts.c.ended_at.is_(None))
    if caller.instance_id is not None:
        query = query.where(contracts.c.id == caller.instance_id)
    return query if instance_ids is None else query.where(contracts.c.id.in_(instance_ids))


async def owned(tx: AsyncConnection, caller: Caller, instance_id: int) -> Row:
    """One live instance of the caller's, locked. Raises ApiError 404 `no_such_instance`."""
    row = await find(tx, caller, instance_id)
    if row is None:
        raise _missing([instance_id])
    return row


async def _all_owned(
    tx: AsyncConnection, caller: Caller, instance_ids: Collection[int], live_only: bool = True
) -> list[Row]:
    found = list(await tx.execute(_mine(caller, instance_ids, live_only).with_for_update()))
    if missing := set(instance_ids) - {row.id for row in found}:
        raise _missing(sorted(missing))
    return found


def _missing(instance_ids: Iterable[int]) -> ApiError:
    named = ", ".join(str(instance_id) for instance_id in instance_ids)
    message = f"cannot find instance {named}: no such instance of yours"
    return ApiError(404, "no_such_instance", message, remedy="`vastai show instances` lists yours")


async def change(tx: AsyncConnection, row: Row, contract: Contract, now: datetime) -> None:
    """What is agreed from now on; the machine's bell is the caller's to ring."""
    await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(document=document.encode(contract)))
    await machines.bump(tx, row.machine_id)
    await listings.refresh_asks(tx, row.machine_id, now)


def _ring(context: Context, found: Iterable[Row]) -> None:
    for machine_id in {row.machine_id for row in found}:
        context.machine_bells.ring(machine_id)


def _instance(
    context: Context, row: Row, machine: MachineRecord | None, names: dict[int, str | None], now: datetime
) -> wire.Instance:
    if machine is None or machine.report is None:
        raise RuntimeError(f"contract {row.id} is on a machine that never reported")
    contract = document.decode(Contract, row.document)
    terms = document.decode(Listing, row.price_terms)
    listed = pricing.price(terms, contract.spec.gpu_count, Decimal(contract.spec.disk_bytes) / GB)
    agreed = contract.price_usd_per_hour
    return wire.Instance(
        contract=contract,
        status=status_of(row),
        request=json.loads(row.request),
        label=row.label,
        template_id=row.template_id,
        template_hash_id=row.template_hash_id,
        template_name=names.get(row.template_id),
        jupyter_token=row.jupyter_token,
        ask_id=row.ask_id,
        machine_id=machine.id,
        host_id=machine.user_id,
        report=machine.report,
        online=liveness.is_online(machine, now, context.settings),
        reliability=liveness.reliability(machine, now, context.settings.offline_after_s, context.away),
        verification=machine.verification,
        terms=terms,
        price=pricing.Price(agreed, listed.storage_total_cost, agreed + listed.storage_total_cost),
        windows=open_windows(machine.windows, now),
        asides=_asides(machine, contract.contract_id),
    )


def _asides(machine: MachineRecord, contract_id: int) -> tuple[Cause, ...]:
    """What the machine says of this rental alone."""
    told = machine.verified.asides if machine.verified else ()
    return tuple(one for one in told if one.scope == f"C.{contract_id}")
