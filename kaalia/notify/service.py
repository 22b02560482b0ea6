"""Notices what the owner must be told, queues it durably for each channel, and has it delivered by other processes.

At least once: a message is done when the channel took it, so that one may come twice after a crash, with the same id.
A channel that takes nothing is left alone for longer and longer, at no cost; a condition tells of it.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from pydantic import ValidationError

from kaalia.clock import Clock
from kaalia.config_notify import MailConfig, NotifyConfig, WebhookConfig
from kaalia.contracts import notification as rules
from kaalia.contracts.notification import Event, Noticed, Told, Watch
from kaalia.errors import HostError, Problem
from kaalia.host import process
from kaalia.model.health import OWN_CHANNELS, Condition, Severity
from kaalia.notify import catalogue
from kaalia.notify.order import Order, Outcome, Parcel, Report, Verdict
from kaalia.service import Tasks, answer_anyway, run_forever
from kaalia.store import conditions, enrolment, machine, notifications, standing
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.store.notifications import ChannelState
from kaalia.wire import notification as wire

log = logging.getLogger(__name__)

LOOK_S = 10.0
FIRST_WORD_S = 60.0
"""How long a daemon that starts waits for the marketplace before it says that the machine is offline."""
HEARD_EVERY = timedelta(seconds=55)
"""So often at most it is written down that the marketplace answers: a heartbeat comes each minute."""
BATCH_MAX = 10
AT_ONCE = 2
"""Deliveries at a time: each is a process of 30 MB (PSS) and 0.2 s of CPU, or lasts until the other's time is up."""
DELIVER_TIMEOUT_S = 90.0
SHOWN = 20
FAILING_AFTER = 3
"""Consecutive failures of a channel after which a condition tells of it."""
COMMAND = (sys.executable, "-P", "-m", "kaalia.notify.deliver")

Deliver = Callable[[Order], Awaitable[Sequence[Outcome]]]


async def deliver(order: Order, timeout_s: float = DELIVER_TIMEOUT_S) -> Sequence[Outcome]:
    """By a process of its own. Raises nothing: what goes wrong is a failed outcome."""
    try:
        done = await process.run(COMMAND, timeout_s, stdin=order.model_dump_json().encode(), check=True)
        return Report.model_validate_json(done.stdout).outcomes
    except HostError as error:
        return [Outcome(verdict=Verdict.FAILED, code=error.code, text=error.problem.message)]
    except ValidationError:
        text = "cannot understand what the process that delivers says"
        return [Outcome(verdict=Verdict.FAILED, code="notify_not_understood", text=text)]


class NotificationService:
    """Made only where the owner configured a channel."""

    name = "notifications"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        config: NotifyConfig,
        deliver: Deliver = deliver,
        look_s: float = LOOK_S,
        first_word_s: float = FIRST_WORD_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._channels = config.channels
        self._deliver = deliver
        self._look_s = look_s
        self._first_word_s = first_word_s
        self._config = config
        self._watch: Watch | None = None
        self._bell = changes.subscribe(Topic.CONTRACTS, Topic.CONDITIONS)
        self._tasks = Tasks()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._noticed: dict[str, Noticed] | None = None
        self._heard = asyncio.Event()
        self._written_at: datetime | None = None
        self._told: list[str] | None = None

    async def hear(self) -> None:
        """The marketplace answered."""
        now, before = self._clock.now(), self._written_at
        if before is None or not timedelta(0) <= now - before < HEARD_EVERY:
            await self._database.transaction(lambda tx: standing.hear(tx, now))
            self._written_at = now
        self._heard.set()

    async def run(self) -> None:
        now = self._clock.now()

        def begin(tx: Transaction) -> None:
            notifications.keep_only(tx, self._channels, now)
            conditions.replace(tx, OWN_CHANNELS, (), now)

        await self._database.transaction(begin)
        try:
            if (await self._database.read(notifications.facts)).heard_at is not None:
                await wait(self._heard, self._first_word_s)
            await run_forever(self.name, self._turn)
        finally:
            await self._tasks.close()

    async def _turn(self) -> None:
        await self.look()
        await self.send()
        await wait(self._bell, self._look_s)

    async def look(self) -> None:
        """Notice, decide, queue."""
        if self._noticed is None or self._watch is None:
            self._watch = await self._read_watch()
            self._noticed = await self._database.read(notifications.noticed)
        now = self._clock.now()
        facts = await self._database.read(notifications.facts)
        decision = rules.decide(rules.occurrences(facts, self._watch, now), self._noticed, now)
        if decision.is_idle:
            return

        def write(tx: Transaction) -> None:
            for told in decision.tell:
                self._queue(tx, told, now)
            notifications.put_noticed(tx, decision.noticed, decision.forget)

        await self._database.transaction(write)
        self._noticed.update(decision.noticed)
        for key in decision.forget:
            del self._noticed[key]
        for told in decision.tell:
            log.info("notification: %s %s: %s", told.occurrence.event, told.state, told.occurrence.message)

    async def _read_watch(self) -> Watch:
        delay, with_warnings = timedelta(seconds=self._config.delay_s), self._config.min_severity == "warn"
        return await asyncio.to_thread(catalogue.read, delay, with_warnings=with_warnings)

    def _queue(self, tx: Transaction, told: Told, now: datetime) -> None:
        member, report = enrolment.get(tx), machine.get_report(tx)
        name = report.system.hostname if report else ""
        text = wire.encode(told, member.machine_id if member else None, name, now)
        message_id = f"msg_{uuid4().hex}"
        for channel, config in self._channels.items():
            if wants(config, told.occurrence.event):
                notifications.add(tx, channel, message_id, told.occurrence.event, text, now)

    async def send(self) -> None:
        """Begin what is due; a delivery goes on beside the next looks."""
        now = self._clock.now()
        waiting, states = await self._database.read(lambda tx: (notifications.counts(tx), notifications.states(tx)))
        for channel in waiting:
            if channel in self._channels and is_due(states.get(channel), now) and not self._tasks.busy(channel):
                self._tasks.start(channel, answer_anyway(self.name, self._send(channel), lambda: None))

    def show(self, tx: Transaction, now: datetime) -> wire.NotifyDocument:
        """How the channels do, for the local API."""
        counts, states = notifications.counts(tx), notifications.states(tx)
        channels = []
        for name in self._channels:
            state = states.get(name, ChannelState())
            view = wire.ChannelView(name, counts.get(name, 0), state.failures, state.next_try_at, state.outcome)
            channels.append(view)
        newest = tuple(
            wire.SentView(one.channel, one.event, one.created_at, one.done_at, one.outcome)
            for one in notifications.newest(tx, SHOWN)
        )
        return wire.NotifyDocument(now, tuple(channels), newest)

    async def settled(self) -> None:
        """Nothing is being delivered any more."""
        while len(self._tasks):  # noqa: ASYNC110 a task under way rings no bell at its end
            await asyncio.sleep(0.01)

    async def _send(self, channel: str) -> None:
        async with self._turns:
            batch = await self._database.read(lambda tx: notifications.waiting(tx, channel, BATCH_MAX))
            parcels = tuple(Parcel(message_id=one.message_id, document=one.document) for one in batch)
            outcomes = await self._deliver(Order.by(self._channels[channel], parcels))
        now = self._clock.now()

        def write(tx: Transaction) -> ChannelState:
            for one, outcome in zip(batch, outcomes, strict=False):
                if outcome.verdict is not Verdict.FAILED:
                    notifications.settle(tx, [one.number], f"{outcome.verdict}: {outcome.text}", now)
            last = outcomes[-1]
            if any(one.verdict is Verdict.SENT for one in outcomes):
                notifications.works(tx, channel, last.text)
            if last.verdict is Verdict.FAILED:
                notifications.fails(tx, channel, last.text, now)
            elif last.verdict is Verdict.REFUSED:
                notifications.refuses(tx, channel, last.text, now)
            return notifications.states(tx)[channel]

        state = await self._database.transaction(write)
        if state.failures:
            log.warning("notification: %s fails (%d): %s", channel, state.failures, state.outcome)
        await self._tell(now)

    async def _tell(self, now: datetime) -> None:
        states = await self._database.read(notifications.states)
        failing = [name for name, state in states.items() if state.failures >= FAILING_AFTER]
        if failing != self._told:
            found = [_condition(name, states[name]) for name in failing]
            await self._database.transaction(lambda tx: conditions.replace(tx, OWN_CHANNELS, found, now))
            self._told = failing


def wants(config: WebhookConfig | MailConfig, event: Event) -> bool:
    return not config.events or event in config.events


def is_due(state: ChannelState | None, now: datetime) -> bool:
    """A clock that was set back makes nobody wait for longer than the longest pause."""
    if state is None or state.next_try_at is None:
        return True
    return not now < state.next_try_at <= now + timedelta(seconds=rules.BACKOFF_S[-1])


def _condition(channel: str, state: ChannelState) -> Condition:
    problem = Problem(
        "notification_failing",
        f"cannot tell the owner by {channel}: {state.failures} tries in a row failed",
        remedy="correct it in the configuration, and try it: kaalia notify --test",
        evidence=state.outcome,
    )
    return Condition(problem, Severity.WARN, "the channel takes a message", channel)
