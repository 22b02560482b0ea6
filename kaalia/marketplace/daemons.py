"""The marketplace's side of the protocol with daemons, after enrolment. docs/protocol.md tells the story.

Serves a machine only what is its own, and believes it only about its own contracts. Sends no commands:
a daemon gets the whole desired state, signed, and one-shot tasks of a fixed list inside it.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import fitness, reliability
from kaalia.contracts import verification as verification_rules
from kaalia.contracts.contract import Contract, Desired
from kaalia.contracts.fitness import Fault
from kaalia.contracts.maintenance import open_windows
from kaalia.marketplace import (
    billing,
    copy_notes,
    listings,
    liveness,
    machines,
    relays,
    removal,
    rentals,
    reports,
    snapshot_notes,
    traffic,
    verification,
    volumes,
)
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.availability import Record
from kaalia.model.metering import TRAFFIC, Meter
from kaalia.model.standing import Standing
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.wire import document, facts, signature
from kaalia.wire.availability import digest
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import (
    LONG_POLL_S,
    Envelope,
    RegistryLoginReply,
    Snapshot,
    StatusMessage,
    StatusPost,
    StatusReply,
    TaskRequest,
    TaskResult,
    shortened,
)

log = logging.getLogger(__name__)

SNAPSHOT_LIFE = timedelta(hours=1)
"""New contracts of a snapshot are not admitted later than this after its issue."""
_NUMBER_MAX = 2**53
NAME_MAX_CHARS = 80
FAULTS_MAX = facts.GPUS_MAX + 1
"""Of a machine: its GPUs and itself."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A request as it was signed."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


async def authenticate(context: Context, machine_id: int, signed: Signed) -> MachineRecord:
    """The machine of the path, proven by its key to have sent this, once.

    Raises ApiError 401 with `machine_unknown`, `machine_deleted`, `nonce_replayed` or a code of wire/signature.
    """
    async with context.engine.begin() as tx:
        machine = await machines.get(tx, machine_id)
    if machine is None:
        raise ApiError(
            401, "machine_unknown", f"cannot accept the request: there is no machine {machine_id}", remedy="enrol it"
        )
    now = context.clock.now()
    key = signature.load_public_key(machine.public_key)
    by = signature.verify_request(key, signed.method, signed.target, signed.headers, signed.body, now)
    context.nonces.take(machine_id, by.nonce, by.created_at, now)
    if machine.deleted_at is not None:
        async with context.engine.begin() as tx:
            await removal.turn_away(tx, machine)
    return machine


async def desired(context: Context, machine_id: int, epoch: int, revision: int, wait_s: float) -> Envelope | None:
    """The signed desired state as soon as it is newer than (epoch, revision), None when there is no news.

    Raises ApiError 409 `history_lost` when the machine has seen a newer one than this database knows.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + min(wait_s, LONG_POLL_S)
    bell = context.machine_bells.subscribe(machine_id)
    try:
        while True:
            bell.clear()
            if (envelope := await _newer(context, machine_id, epoch, revision)) is not None:
                return envelope
            if (remaining_s := until_s - loop.time()) <= 0:
                return None
            await context.machine_bells.wait(machine_id, bell, remaining_s)
    finally:
        context.machine_bells.unsubscribe(machine_id, bell)


async def take_status(context: Context, machine_id: int, post: StatusPost) -> StatusReply:
    """A heartbeat and its messages: each is applied exactly once, in order, together with the acknowledgement."""
    now = context.clock.now()
    _check_numbers(post)
    async with context.engine.begin() as tx:
        await machines.lock(tx, machine_id)
        machine = await machines.get(tx, machine_id)
        if machine is None:
            raise ApiError(401, "machine_unknown", f"cannot take the status: there is no machine {machine_id}")
        acked_seq = machine.acked_seq if machine.stream_id == post.stream_id else 0
        fresh = sorted((m for m in post.messages if m.seq > acked_seq), key=lambda message: message.seq)
        told, full = [m.workload for m in fresh if m.workload is not None], list(post.workloads or ())
        counted = [m.meter for m in fresh if m.meter is not None]
        await billing.take(tx, machine_id, counted, now)
        await traffic.take(tx, machine_id, machine.user_id, counted, now)
        changed = [
            await _apply_statuses(context, tx, machine_id, told, in_order=True),
            await _apply_statuses(context, tx, machine_id, full, in_order=False),
            await _apply_report(tx, machine_id, fresh),
            await _apply_faults(tx, machine, post.faults or ()),
        ]
        if any(changed):
            await listings.refresh_asks(tx, machine_id, now)
        stored = [m.volume for m in fresh if m.volume is not None] + list(post.volumes or ())
        for note in (m.copy for m in fresh if m.copy is not None):
            await copy_notes.record(tx, machine_id, note, now)
        are_gone = [await volumes.record(tx, machine_id, status, now) for status in stored]
        record = await liveness.seen(tx, machine_id, now, context.settings.offline_after_s, context.away, post.outages)
        if post.cordon != machine.cordon:
            await machines.put_cordon(tx, machine_id, post.cordon)
        has_new_key = await relays.take_key(context, tx, machine_id, post.relay_key)
        conditions = post.faults if post.conditions is None else post.conditions
        now_known = await machines.get(tx, machine_id) if any(changed) or record is None else None
        now_known = now_known or replace(machine, availability=record, last_seen_at=now, cordon=post.cordon)
        told_now = None if conditions is None else _told(conditions)
        is_judged = await verification.heed(context, tx, now_known, told_now, post.selftests)
        acked_seq = fresh[-1].seq if fresh else acked_seq
        applied = {"applied_revision": post.revision} if post.epoch == context.epoch else {}
        await tx.execute(
            sa.update(tables.machines)
            .where(tables.machines.c.id == machine_id)
            .values(stream_id=post.stream_id, acked_seq=acked_seq, **applied)
        )
    for message in fresh:
        log.info("machine %d: message %d applied: %s", machine_id, message.seq, _in_words(message))
    if any(status.state is WorkloadState.ENDED for status in (*told, *full)) or any(are_gone) or is_judged:
        context.machine_bells.ring(machine_id)
    if has_new_key:
        await relays.ring(context, machine_id)
    return _reply(acked_seq, now, post, record)


def _reply(acked_seq: int, now: datetime, post: StatusPost, record: Record | None) -> StatusReply:
    if record is None:
        return StatusReply(acked_seq, now)
    is_news = post.availability is not None and post.availability != digest(record)
    return StatusReply(
        acked_seq, now, availability=record if is_news else None, reliability=reliability.figure(record, now)
    )


def _in_words(message: StatusMessage) -> str:
    if message.volume is not None:
        return f"volume {message.volume.volume_id} is {message.volume.state}"
    if message.copy is not None:
        return f"copy of {message.copy.holder}: {message.copy.state}"
    if message.meter is not None:
        what = "volume" if message.meter.meter is Meter.VOLUME else "contract"
        return f"{what} {message.meter.contract_id}: {message.meter.meter} {message.meter.edge}"
    if message.workload is None:
        return str(message.kind)
    return f"contract {message.workload.contract_id} is {message.workload.state}"


async def take_result(context: Context, machine_id: int, task_id: str, result: TaskResult) -> None:
    """Keep a task's first result and wake who waits for it. Raises ApiError 404 `task_unknown`."""
    kept = document.encode(replace(result, text=shortened(result.text)))
    mine = sa.and_(tables.tasks.c.task_id == task_id, tables.tasks.c.machine_id == machine_id)
    async with context.engine.begin() as tx:
        is_snapshot = await snapshot_notes.record(tx, machine_id, task_id, result, context.clock.now())
        if not result.is_final:
            return
        await tx.execute(sa.update(tables.tasks).where(mine, tables.tasks.c.result.is_(None)).values(result=kept))
        known = await tx.scalar(sa.select(tables.tasks.c.task_id).where(mine))
    if known is None and not is_snapshot:
        raise ApiError(404, "task_unknown", f"cannot keep the result: machine {machine_id} has no such task")
    if bell := context.task_bells.get(task_id):
        bell.set()


async def task_login(context: Context, machine_id: int, task_id: str) -> RegistryLoginReply:
    """The login for a task of this machine, once. Raises ApiError 404 `login_unknown`."""
    async with context.engine.begin() as tx:
        login = await snapshot_notes.login(context, tx, machine_id, task_id)
    if login is None:
        raise ApiError(
            404, "login_unknown", "cannot find a registry login of this task: there is none, or it was given"
        )
    return login


async def registry_login(context: Context, machine_id: int, contract_id: int) -> RegistryLoginReply:
    """The login for the image of one of the machine's own live contracts.

    Raises ApiError 404 `contract_unknown` or `login_unknown`.
    """
    contracts = tables.contracts
    async with context.engine.begin() as tx:
        owner_id = await tx.scalar(sa.select(contracts.c.machine_id).where(contracts.c.id == contract_id))
        if owner_id != machine_id:
            raise ApiError(404, "contract_unknown", f"cannot find contract {contract_id} of machine {machine_id}")
        login = await rentals.registry_login(context, tx, contract_id)
    if login is None:
        raise ApiError(404, "login_unknown", f"cannot find a registry login of contract {contract_id}")
    return login


async def _newer(context: Context, machine_id: int, epoch: int, revision: int) -> Envelope | None:
    async with context.engine.begin() as tx:
        machine = await machines.get(tx, machine_id)
        if machine is None:
            raise ApiError(401, "machine_unknown", f"cannot serve machine {machine_id}: it is gone")
        if (epoch, revision) > (context.epoch, machine.revision):
            raise ApiError(
                409,
                "history_lost",
                f"cannot serve machine {machine_id}: it has seen revision {revision} of epoch {epoch}, "
                f"newer than revision {machine.revision} of epoch {context.epoch}",
                remedy="the database was restored from a copy: the operator must give it a greater epoch",
            )
        if (epoch, revision) == (context.epoch, machine.revision):
            return None
        snapshot = await _snapshot(context, tx, machine)
    return signature.sign_document(context.signing_key, document.encode(snapshot))


async def _snapshot(context: Context, tx: AsyncConnection, machine: MachineRecord) -> Snapshot:
    now = context.clock.now()
    contracts, tasks = tables.contracts, tables.tasks
    rows = await tx.execute(
        sa.select(contracts.c.document, contracts.c.ended_at)
        .where(contracts.c.machine_id == machine.id, contracts.c.removed_at.is_(None))
        .order_by(contracts.c.id)
    )
    open_tasks = await tx.scalars(
        sa.select(tasks.c.document)
        .where(tasks.c.machine_id == machine.id, tasks.c.result.is_(None))
        .order_by(tasks.c.created_at)
    )
    requests = (document.decode(TaskRequest, text) for text in open_tasks)
    return Snapshot(
        machine_id=machine.id,
        epoch=context.epoch,
        revision=machine.revision,
        issued_at=now,
        not_after=now + SNAPSHOT_LIFE,
        listing=machine.listing,
        contracts=tuple(_contract(row.document, row.ended_at is not None) for row in rows),
        tasks=tuple(request for request in requests if request.deadline_at > now),
        complete=True,
        marketplace_url=context.settings.public_url,
        volumes=await volumes.of_machine(tx, machine.id),
        maintenances=open_windows(machine.windows, now),
        relays=await relays.links(tx, machine.id),
        standing=Standing(
            machine.verification,
            await reports.told(tx, machine.id),
            None if machine.verified is None else verification_rules.view(machine.verified),
        ),
    )


def _contract(text: str, is_ended: bool) -> Contract:
    contract = document.decode(Contract, text)
    return replace(contract, desired=Desired.ENDED) if is_ended else contract


def _check_numbers(post: StatusPost) -> None:
    if not facts.is_name(post.stream_id):
        raise ApiError(400, "document_invalid", "cannot read StatusPost: stream_id: it must be a short name")
    statuses = [*(post.workloads or ()), *(m.workload for m in post.messages if m.workload is not None)]
    spaces = [*(post.volumes or ()), *(m.volume for m in post.messages if m.volume is not None)]
    numbers = [post.revision, *(m.seq for m in post.messages), *(told.contract_id for told in statuses)]
    numbers += [told.volume_id for told in spaces]
    entries = [m.meter for m in post.messages if m.meter is not None]
    numbers += [entry.contract_id for entry in entries]
    numbers += [entry.amount for entry in entries if entry.meter not in TRAFFIC]
    # Sums of a fast line over years are greater than any size.
    if not all(0 <= number <= _NUMBER_MAX for number in numbers) or any(entry.amount < 0 for entry in entries):
        raise ApiError(400, "document_invalid", f"cannot read StatusPost: numbers must be 0 to {_NUMBER_MAX}")


async def _apply_report(tx: AsyncConnection, machine_id: int, messages: Iterable[StatusMessage]) -> bool:
    """Of several reports only the newest is news. True: there was one."""
    reports = [message.report for message in messages if message.report is not None]
    if not reports:
        return False
    if why := facts.fault(reports[-1]):
        # Everybody's search reads every report, so one that cannot be true must not be kept.
        log.error("report_unbelievable: the report of machine %d is not taken: %s", machine_id, why)
        return False
    await machines.put_report(tx, machine_id, reports[-1])
    return True


async def _apply_faults(tx: AsyncConnection, machine: MachineRecord, told: tuple[Fault, ...]) -> bool:
    """A state, not a message: each post has all there are. True: they are others than before."""
    found = _told(told)
    if found == machine.faults:
        return False
    await machines.put_faults(tx, machine.id, found)
    now, before = ({(one.scope, one.code, one.severity): one for one in each} for each in (found, machine.faults))
    for key in now.keys() - before.keys():
        log.warning("machine %d: %s is not rented out: %s, %s", machine.id, *key[:2], now[key].message)
    for key in before.keys() - now.keys():
        log.info("machine %d: %s is no longer kept back for %s", machine.id, *key[:2])
    return now.keys() != before.keys()


def _told(told: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Within bounds."""
    return tuple(
        replace(
            one,
            scope=one.scope[:NAME_MAX_CHARS],
            code=one.code[:NAME_MAX_CHARS],
            message=one.message[: fitness.MESSAGE_MAX_CHARS],
        )
        for one in told[:FAULTS_MAX]
    )


async def _apply_statuses(
    context: Context, tx: AsyncConnection, machine_id: int, statuses: list[WorkloadStatus], *, in_order: bool
) -> bool:
    """True: what the machine's contracts hold may have changed."""
    if not statuses:
        return False
    contracts, has_changed = tables.contracts, False
    wanted = {status.contract_id for status in statuses}
    rows = await tx.execute(
        sa.select(contracts.c.id, contracts.c.removed_at).where(
            contracts.c.machine_id == machine_id, contracts.c.id.in_(wanted)
        )
    )
    removed = {row.id: row.removed_at is not None for row in rows}
    for contract_id in sorted(wanted - removed.keys()):
        log.warning("foreign_contract: machine %d spoke of contract %d, which is not its own", machine_id, contract_id)
    for status in statuses:
        if removed.get(status.contract_id, True):
            continue
        has_changed |= await rentals.record_status(tx, status, in_order=in_order)
        if status.state is WorkloadState.ENDED:
            await rentals.finished(tx, status.contract_id, context.clock.now())
            removed[status.contract_id] = has_changed = True
    return has_changed
