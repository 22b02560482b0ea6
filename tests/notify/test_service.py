"""From the machine's rows to the channels: durable, bounded, nothing twice, and a dead channel costs nothing."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from kaalia.config_notify import NotifyConfig
from kaalia.contracts.offer import Listing
from kaalia.daemon import notifications as root
from kaalia.errors import Problem
from kaalia.model.health import OWN_CHANNELS, Condition, Severity
from kaalia.model.standing import RenterReport, Standing
from kaalia.notify.order import Order, Outcome, Verdict
from kaalia.notify.service import FAILING_AFTER, NotificationService
from kaalia.store import conditions, enrolment, machine, notifications, standing
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from kaalia.wire import notification as wire
from tests.support.builders import build_report
from tests.support.clock import START, FakeClock
from tests.support.serving import running

SENT = Outcome(verdict=Verdict.SENT, text="HTTP status 204")
REFUSED = Outcome(verdict=Verdict.REFUSED, text="it answers with HTTP status 400")
DEAD = Outcome(verdict=Verdict.FAILED, text="no answer within 20 s")


class Post:
    """Takes orders as the process that delivers does.

    `dead` channels fail, `refusing` ones take no message, `gate` holds everything up.
    """

    def __init__(self) -> None:
        self.taken: dict[str, list[wire.Notice]] = {}
        self.ids: list[str] = []
        self.tries: dict[str, int] = {}
        self.dead: set[str] = set()
        self.refusing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, order: Order) -> Sequence[Outcome]:
        channel = order.webhook or order.mail
        assert channel is not None
        self.tries[channel.place] = self.tries.get(channel.place, 0) + 1
        await self.gate.wait()
        if channel.place in self.dead:
            return [DEAD]
        if channel.place in self.refusing:
            return [REFUSED] * len(order.parcels)
        self.taken.setdefault(channel.place, []).extend(wire.decode(one.document) for one in order.parcels)
        self.ids += [one.message_id for one in order.parcels]
        return [SENT] * len(order.parcels)

    def told(self, place: str) -> list[str]:
        return [one.type for one in self.taken.get(place, [])]


def config(**changes: object) -> NotifyConfig:
    hooks = {
        "a": {"url": "https://a.example/x", "secret_file": "/etc/s"},
        "b": {"url": "https://b.example/x", "secret_file": "/etc/s", "events": ["disk_low"]},
    }
    mails = {"me": {"host": "mail.example", "sender": "k@example.com", "to": "me@example.com"}}
    return NotifyConfig.model_validate({"webhooks": hooks, "mails": mails, **changes})


def service(store: Database, changes: Changes, clock: FakeClock, post: Post, **more: object) -> NotificationService:
    return NotificationService(store, changes, clock, config(**more), post.deliver, look_s=0.02, first_word_s=0.01)


async def turn(one: NotificationService) -> None:
    await one.look()
    await one.send()
    await asyncio.wait_for(one.settled(), 10)


def wrong(*codes: str) -> list[Condition]:
    return [Condition(Problem(code, f"cannot {code}"), Severity.CRITICAL, "mended") for code in codes]


async def find(store: Database, *codes: str, at: FakeClock) -> None:
    now = at.now()
    await store.transaction(lambda tx: conditions.replace(tx, "gpu", wrong(*codes), now))


async def test_each_channel_gets_what_it_wants_once(store: Database, changes: Changes, clock: FakeClock) -> None:
    post = Post()
    one = service(store, changes, clock, post)

    def fill(tx: Transaction) -> None:
        enrolment.put(tx, enrolment.Enrolment("https://market.example", 12, {"k": "x"}, START))
        machine.put_report(tx, build_report())
        machine.put_listing(tx, Listing(Decimal(1), end_at=START + timedelta(days=3)))
        standing.put(tx, Standing("unverified", (RenterReport(4, "slow", "very", START),)), START)

    await store.transaction(fill)
    await find(store, "disk_low", "gpu_lost", at=clock)
    clock.advance(61)
    for _ in range(3):
        await turn(one)

    everything = ["disk_low.began", "issue_detected.began", "reported_by_renter.once", "listing_ends.once"]
    assert sorted(post.told("a.example")) == sorted(everything)
    assert post.told("b.example") == ["disk_low.began"]
    assert sorted(post.told("mail.example:587")) == sorted(everything)
    assert {(each.data.machine_id, each.data.machine) for each in post.taken["a.example"]} == {(12, "rack-7")}
    assert len(set(post.ids)) == 4


async def test_it_goes_on_after_a_restart_where_it_was(store: Database, changes: Changes, clock: FakeClock) -> None:
    post = Post()
    post.dead = {"a.example", "mail.example:587"}
    await find(store, "gpu_lost", at=clock)
    clock.advance(61)
    await turn(service(store, changes, clock, post))
    assert post.told("a.example") == []

    post.dead = set()
    clock.advance(5)
    async with running(service(store, changes, clock, post)):
        async with asyncio.timeout(10):
            while len(post.ids) < 2:
                await asyncio.sleep(0.01)

    assert post.told("a.example") == post.told("mail.example:587") == ["issue_detected.began"]
    assert len(set(post.ids)) == 1
    assert await store.read(notifications.counts) == {}


async def test_a_dead_channel_holds_up_no_other_and_is_left_alone(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    post = Post()
    post.dead = {"a.example"}
    one = service(store, changes, clock, post)
    await find(store, "gpu_lost", at=clock)
    clock.advance(61)
    for _ in range(20):
        await turn(one)
    assert post.tries == {"a.example": 1, "mail.example:587": 1}

    for _ in range(FAILING_AFTER):
        clock.advance(3601)
        await turn(one)
    (told,) = [each for each in await store.read(conditions.all_open) if each.source == OWN_CHANNELS]
    assert (told.condition.problem.code, told.condition.scope) == ("notification_failing", "webhooks.a")
    assert told.condition.problem.evidence == DEAD.text

    post.dead = set()
    clock.advance(3601)
    await turn(one)
    assert post.told("a.example") == ["issue_detected.began"]
    assert not [each for each in await store.read(conditions.all_open) if each.source == OWN_CHANNELS]


async def test_a_channel_that_refuses_every_message_is_told(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    """As a chat's webhook does, which wants messages of another form: without a word of it the owner waits in vain."""
    post = Post()
    post.refusing = {"a.example"}
    one = service(store, changes, clock, post)
    for number in range(FAILING_AFTER):
        await find(store, f"gpu_fault_{number}", at=clock)
        clock.advance(61)
        await turn(one)

    (told,) = [each for each in await store.read(conditions.all_open) if each.source == OWN_CHANNELS]
    assert told.condition.scope == "webhooks.a"
    assert told.condition.problem.evidence == REFUSED.text
    assert (await store.read(notifications.counts)) == {}

    post.refusing = set()
    await find(store, "gpu_lost", at=clock)
    clock.advance(61)
    await turn(one)
    assert not [each for each in await store.read(conditions.all_open) if each.source == OWN_CHANNELS]


async def test_a_delivery_under_way_holds_up_no_look(store: Database, changes: Changes, clock: FakeClock) -> None:
    post = Post()
    post.gate.clear()
    one = service(store, changes, clock, post)
    await find(store, "gpu_lost", at=clock)
    clock.advance(61)
    await one.look()
    await one.send()
    await find(store, "gpu_lost", "disk_low", at=clock)
    clock.advance(61)
    await one.look()
    await one.send()
    assert await store.read(notifications.counts) == {"webhooks.a": 2, "webhooks.b": 1, "mails.me": 2}

    post.gate.set()
    await asyncio.wait_for(one.settled(), 10)
    await turn(one)
    assert await store.read(notifications.counts) == {}
    assert sum(post.tries.values()) == 5


async def test_what_waits_is_bounded_and_not_kept_for_ever(store: Database, clock: FakeClock) -> None:
    def fill(tx: Transaction) -> None:
        for number in range(notifications.WAITING_MAX + 40):
            notifications.add(tx, "webhooks.a", f"msg_{number}", "issue_detected", "{}", START)

    await store.transaction(fill)
    assert await store.read(notifications.counts) == {"webhooks.a": notifications.WAITING_MAX}
    (oldest,) = await store.read(lambda tx: notifications.waiting(tx, "webhooks.a", 1))
    assert oldest.message_id == "msg_40"

    late = START + timedelta(days=3, seconds=1)
    await store.transaction(lambda tx: notifications.fails(tx, "webhooks.a", "no", late))
    assert await store.read(notifications.counts) == {}
    kept = await store.read(lambda tx: notifications.newest(tx, 1000))
    assert len(kept) <= notifications.DONE_ROWS + 1


async def test_a_channel_that_is_no_longer_configured_is_forgotten(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    await store.transaction(lambda tx: notifications.add(tx, "webhooks.old", "m", "disk_low", "{}", START))
    await store.transaction(lambda tx: notifications.fails(tx, "webhooks.old", "no", START))

    await store.transaction(lambda tx: notifications.keep_only(tx, ["webhooks.a"], START))

    assert await store.read(notifications.counts) == {}
    assert await store.read(notifications.states) == {}


async def test_silence_of_the_marketplace_is_told_also_after_a_restart(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    post = Post()
    await store.transaction(
        lambda tx: enrolment.put(tx, enrolment.Enrolment("https://market.example", 12, {"k": "x"}, START))
    )
    one = service(store, changes, clock, post)
    await one.hear()
    clock.advance(170)
    await turn(one)
    assert post.ids == []
    clock.advance(15)
    await turn(one)
    assert post.told("a.example") == ["machine_offline.began"]

    clock.advance(3600)
    one = service(store, changes, clock, post)
    await one.hear()
    await turn(one)
    assert post.told("a.example") == ["machine_offline.began", "machine_offline.over"]
    assert post.taken["a.example"][-1].data.message.startswith("the machine was offline for 63 min")

    clock.advance(100)
    await one.hear()
    await turn(one)
    assert len(post.told("a.example")) == 2


def test_a_daemon_that_tells_nobody_imports_nothing_of_it() -> None:
    program = (
        "import sys; before = set(sys.modules); import kaalia.daemon.build; "
        "print([n for n in sys.modules if n.startswith('kaalia.notify') or n in "
        "('smtplib', 'kaalia.store.notifications', 'kaalia.contracts.notification', 'kaalia.wire.notification')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n", done.stdout


async def test_the_parts_are_made_only_where_a_channel_is_configured(
    store: Database, changes: Changes, clock: FakeClock
) -> None:

    await store.transaction(lambda tx: conditions.replace(tx, OWN_CHANNELS, wrong("notification_failing"), START))
    assert await root.service(NotifyConfig(), clock, changes, store) is None
    assert await store.read(conditions.all_open) == ()
    made = await root.service(config(), clock, changes, store)
    assert isinstance(made, NotificationService)
