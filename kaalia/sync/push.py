"""Tells the marketplace: heartbeats, and the outbox in order, each row until it is acknowledged."""

import asyncio
import ipaddress
import logging
import random
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import Clock
from kaalia.contracts import cordon, fitness, impact
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.local import is_local
from kaalia.errors import KaaliaError, MarketplaceError, UnreachableError
from kaalia.model.copying import CopyStatus
from kaalia.model.machine import MachineReport
from kaalia.model.metering import Entry
from kaalia.model.volume import VolumeStatus
from kaalia.model.workload import WorkloadStatus
from kaalia.pulse import PULSE
from kaalia.store import availability, conditions, enrolment, maintenance, outbox, reach, relays, volumes, workloads
from kaalia.store import database as state
from kaalia.store.availability import StoredOutage
from kaalia.store.changes import Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.store.outbox import Message
from kaalia.sync.backoff import Backoff
from kaalia.sync.client import MarketplaceClient
from kaalia.wire import document
from kaalia.wire.availability import digest
from kaalia.wire.protocol import MessageKind, StatusMessage, StatusPost, StatusReply

log = logging.getLogger(__name__)

BATCH_MAX = 200
"""Messages of one post."""
OUTAGES_MAX = 32
FULL_EVERY_S = 300.0
"""The full list of workloads goes this often, whatever was said before, and after every outage."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One post. `last_seq`: the newest row it speaks for, 0 when none; `has_more`: the outbox holds more rows.

    `outages`: those that it tells.
    """

    post: StatusPost
    last_seq: int
    has_more: bool
    outages: tuple[StoredOutage, ...] = ()


class Push:
    """Posts when `bell` (Topic.OUTBOX) rings, and every `heartbeat_s` at the latest."""

    def __init__(
        self,
        database: Database,
        client: MarketplaceClient,
        clock: Clock,
        bell: asyncio.Event,
        backoff: Backoff,
        chance: random.Random,
        heartbeat_s: float,
    ) -> None:
        self._database = database
        self._client = client
        self._clock = clock
        self._bell = bell
        self._backoff = backoff
        self._chance = chance
        self._heartbeat_s = heartbeat_s
        self._full_sent_s: float | None = None
        self._stream_id = ""
        self._seen_address = ""
        self._failure: tuple[str, bool] | None = None

    async def turn(self) -> None:
        await self._backoff.guard("status", self._watched)

    async def once(self) -> bool:
        """One post and its acknowledgement; True when the outbox holds more. Raises MarketplaceError."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        full_sent_s, self._full_sent_s = self._full_sent_s, None  # a failure below makes the full list due
        is_full_due = full_sent_s is None or now_s - full_sent_s >= FULL_EVERY_S
        stream_id = self._stream_id = self._stream_id or await self._database.transaction(state.stream_id)
        batch = await self._database.read(lambda tx: collect(tx, stream_id, now, is_full_due))
        reply = await self._client.post_status(batch.post)
        if batch.post.workloads is not None:
            full_sent_s = now_s
        self._full_sent_s = full_sent_s
        await self._hear_availability(batch, reply)
        await self._hear_address(reply.seen_address)
        return await self._acknowledge(batch, reply.acked_seq)

    async def _hear_availability(self, batch: Batch, reply: StatusReply) -> None:
        at, told = reply.server_time, batch.outages
        await self._database.transaction(
            lambda tx: availability.heard(tx, at, reply.reliability, reply.availability, told)
        )
        self._failure = None

    async def _watched(self) -> None:
        """A failure is written down when it is another one: what it says tells whose fault a silence is."""
        try:
            await self._until_idle()
        except MarketplaceError as error:
            failure = (error.code, _was_reached(error))
            if failure != self._failure:
                await self._database.transaction(lambda tx: availability.failed(tx, failure[0], was_reached=failure[1]))
                self._failure = failure
            raise

    async def _hear_address(self, address: str | None) -> None:
        if address is None or address == self._seen_address:
            return
        try:
            told = str(ipaddress.ip_address(address))
        except ValueError:
            return  # a hint that cannot be true
        await self._database.transaction(lambda tx: reach.put_seen_address(tx, told), Topic.PORTS, Topic.ADDRESS)
        self._seen_address = address

    async def _until_idle(self) -> None:
        more = True
        while more:
            with PULSE.turn("heartbeat"):
                more = await self.once()
        await wait(self._bell, self._heartbeat_s * self._chance.uniform(0.8, 1.0))

    async def _acknowledge(self, batch: Batch, acked_seq: int) -> bool:
        sent = batch.post.messages
        if sent and acked_seq > sent[-1].seq:
            # It has seen later numbers of this stream than exist here: this database is an older copy.
            log.warning(
                "outbox_rewound: the marketplace has seen message %d of a stream at %d", acked_seq, sent[-1].seq
            )
            self._stream_id = await self._database.transaction(state.renew_stream_id)
            return True
        is_done = not sent or acked_seq == sent[-1].seq
        safe_seq = batch.last_seq if is_done else acked_seq
        if safe_seq:
            await self._database.transaction(lambda tx: outbox.acknowledge(tx, safe_seq))
        return batch.has_more and is_done


def collect(tx: Transaction, stream_id: str, now: datetime, is_full_due: bool) -> Batch:
    """The next post. The full list only goes with the end of the outbox: it must not be older than a message."""
    rows = outbox.pending(tx, BATCH_MAX + 1)
    has_more = len(rows) > BATCH_MAX
    rows = rows[:BATCH_MAX]
    known, record = enrolment.get_snapshot(tx), availability.get_record(tx)
    outages = availability.untold(tx, OUTAGES_MAX)
    rows_due = workloads.all_workloads(tx).values() if is_full_due and not has_more else None
    full = None if rows_due is None else tuple(row for row in rows_due if not is_local(row.contract_id))
    found = conditions.all_open(tx)
    post = StatusPost(
        stream_id=stream_id,
        epoch=known.epoch if known else 0,
        revision=known.revision if known else 0,
        as_of=now,
        messages=_messages(rows),
        workloads=full,
        volumes=None if full is None else volumes.all_statuses(tx),
        cordon=_cordon(tx, now),
        faults=fitness.faults(found),
        relay_key=relays.get_key(tx),
        outages=tuple(one.outage for one in outages),
        availability="" if record is None else digest(record),
        conditions=impact.told(found),
        selftests=tuple(row.body for row in rows if row.kind == MessageKind.SELFTEST),
    )
    return Batch(post, rows[-1].seq if rows else 0, has_more, outages)


def _was_reached(error: MarketplaceError) -> bool:
    """Somebody answered, be it with a refusal: the way to the internet is there."""
    if not isinstance(error, UnreachableError) or error.code != "marketplace_unreachable":
        return error.code != "tls_untrusted"  # as a router says it that wants a login first
    cause = error.__cause__
    return isinstance(getattr(cause, "os_error", cause), ConnectionRefusedError)


def _cordon(tx: Transaction, now: datetime) -> Cordon | None:
    stored = maintenance.get_cordon(tx)
    return stored.cordon if stored and cordon.is_up(stored.cordon, now) else None


def _messages(rows: tuple[Message, ...]) -> tuple[StatusMessage, ...]:
    """Rows as messages; of several reports only the last is worth sending."""
    last_report = max((row.seq for row in rows if row.kind == MessageKind.REPORT), default=0)
    apart = (MessageKind.SELFTEST, MessageKind.REPORT)
    wanted = (row for row in rows if row.kind not in apart or row.seq == last_report)
    return tuple(message for row in wanted if (message := _message(row)) is not None)


def _message(row: Message) -> StatusMessage | None:
    """None for a row that cannot be read: it must not hold up the others for ever."""
    try:
        if row.kind == MessageKind.WORKLOAD:
            return StatusMessage(row.seq, MessageKind.WORKLOAD, workload=document.decode(WorkloadStatus, row.body))
        if row.kind == MessageKind.REPORT:
            return StatusMessage(row.seq, MessageKind.REPORT, report=document.decode(MachineReport, row.body))
        if row.kind == MessageKind.METER:
            return StatusMessage(row.seq, MessageKind.METER, meter=document.decode(Entry, row.body))
        if row.kind == MessageKind.VOLUME:
            return StatusMessage(row.seq, MessageKind.VOLUME, volume=document.decode(VolumeStatus, row.body))
        if row.kind == MessageKind.COPY:
            return StatusMessage(row.seq, MessageKind.COPY, copy=document.decode(CopyStatus, row.body))
        log.error("outbox_unreadable: message %d has the unknown kind %s; dropped", row.seq, row.kind)
    except KaaliaError as error:
        log.error("outbox_unreadable: message %d is dropped: %s", row.seq, error)
    return None
