"""Both sides reckon the same reliability, over the wire, whatever happens to machine, line and marketplace."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.api.routes import reliability as local
from kaalia.contracts.maintenance import Window
from kaalia.marketplace import liveness, machines
from kaalia.marketplace.db import tables
from kaalia.model.availability import Cause, Outage, Span
from kaalia.store import availability, maintenance
from kaalia.store.changes import Topic
from kaalia.sync.backoff import Backoff
from kaalia.sync.push import Push
from kaalia.wire.availability import ReliabilityDocument
from tests.marketplace.support import Market
from tests.sync.support import Machine, open_pair


@dataclass
class Both:
    market: Market
    host: Machine
    push: Push

    async def post(self) -> None:
        await self.push.once()

    async def lost_post(self) -> None:
        """The marketplace takes it, the answer is lost on the way back."""
        async with self.market.context.engine.begin() as tx:
            await liveness.seen(tx, self.host.member.machine_id, self.market.clock.now())

    def restart(self) -> None:
        """Another process of the daemon."""
        self.push = _push(self.host)

    def skew(self, seconds: float) -> None:
        """The machine's clock is so far ahead from now on."""
        is_off_s = (self.host.clock.now() - self.market.clock.now()).total_seconds()
        self.host.clock.jump(seconds - is_off_s)

    def advance(self, seconds: float) -> None:
        self.market.clock.advance(seconds)
        self.host.clock.advance(seconds)

    async def here(self, later_s: float = 0.0) -> ReliabilityDocument:
        now = self.market.clock.now() + timedelta(seconds=later_s)
        return await self.host.database.read(lambda tx: local.read(tx, now))

    async def there(self, later_s: float = 0.0) -> float:
        async with self.market.context.engine.begin() as tx:
            machine = await machines.get(tx, self.host.member.machine_id)
        assert machine is not None
        now = self.market.clock.now() + timedelta(seconds=later_s)
        return liveness.reliability(machine, now, away=self.market.context.away)

    async def rent(self, is_rented: bool) -> None:
        """A renter's container runs, or stops, by the journal."""
        async with self.market.context.engine.begin() as tx:
            await tx.execute(sa.delete(tables.charges))
            if is_rented:
                row = {"contract_id": 1, "machine_id": self.host.member.machine_id, "host_id": 1, "quantity": 1}
                await tx.execute(sa.insert(tables.charges).values(**row, user_id=2, meter="run", started_at=1.0))

    async def schedule(self, start_s: float, length_s: float) -> None:
        """Announced two days ago, known to both."""
        now = self.market.clock.now()
        start_at = now + timedelta(seconds=start_s)
        window = Window(start_at, start_at + timedelta(seconds=length_s), now - timedelta(days=2))
        async with self.market.context.engine.begin() as tx:
            await machines.put_windows(tx, self.host.member.machine_id, (window,))
        await self.host.database.transaction(lambda tx: maintenance.put_windows(tx, [window]))


def _push(host: Machine) -> Push:
    chance = random.Random(1)
    return Push(
        host.database, host.client, host.clock, host.changes.subscribe(Topic.OUTBOX), Backoff(chance), chance, 30
    )


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Both]:
    async with open_pair(folder) as (market, host):
        yield Both(market, host, _push(host))


STEP = st.one_of(
    st.tuples(st.just("heartbeats"), st.integers(1, 4)),
    st.tuples(st.just("silence"), st.integers(181, 5 * 86400)),
    st.tuples(st.just("short gap"), st.integers(61, 180)),
    st.tuples(st.just("lost answer"), st.integers(30, 400)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("rent"), st.integers(0, 1)),
    st.tuples(st.just("window"), st.integers(0, 7200)),
    st.tuples(st.just("claim"), st.integers(0, 6)),
    st.tuples(st.just("clock"), st.integers(-250, 250)),
)


@settings(max_examples=10, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=14))
def test_both_sides_have_the_same_figure(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), steps))


async def _live(folder: Path, steps: list[tuple[str, int]]) -> None:
    async with pair(folder) as both:
        await both.post()
        for what, amount in steps:
            await _step(both, what, amount)
        await both.post()
        for later_s in (0.0, 100.0, 1000.0, 86400.0, 40 * 86400.0):
            assert (await both.here(later_s)).reliability == await both.there(later_s)
        found = await both.here()
        assert found.told == await both.there()


async def _step(both: Both, what: str, amount: int) -> None:
    match what:
        case "heartbeats":
            for _ in range(amount):
                both.advance(60)
                await both.post()
        case "silence" | "short gap":
            both.advance(amount)
            assert (await both.here()).reliability == await both.there(), "also while it lasts"
            await both.post()
        case "lost answer":
            both.advance(amount)
            await both.lost_post()
            both.advance(20)
            await both.post()
        case "restart":
            both.restart()
        case "rent":
            await both.rent(bool(amount))
        case "window":
            await both.schedule(amount, 3600)
        case "claim":
            await _claim(both, list(Cause)[amount])
        case "clock":
            both.skew(amount)


async def _claim(both: Both, cause: Cause) -> None:
    """The host says that it was somebody else's fault, for hours."""
    now = both.host.clock.now()
    words = Outage(now - timedelta(hours=9), now, cause, False)
    await both.host.database.transaction(lambda tx: availability.begin(tx, words, "boot-1", 0.0))


async def test_the_record_is_told_when_it_changed_and_the_ledger_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        await both.post()
        first = await both.host.database.read(availability.get_record)
        both.advance(600)
        begin_at = both.host.clock.now() - timedelta(seconds=600)
        outage = Outage(begin_at, both.host.clock.now(), Cause.POWER, False)
        await both.host.database.transaction(lambda tx: availability.begin(tx, outage, "boot-1", 0.0))
        await both.post()
        both.advance(60)
        await both.post()
        found = await both.here()
        untold = await both.host.database.read(lambda tx: availability.untold(tx, 9))

    assert first is not None
    assert first.silences == ()
    assert found.record is not None
    assert [one.cause for one in found.record.silences] == [Cause.POWER]
    (line,) = found.ledger
    assert line.line.outage == outage
    assert line.cost is not None
    assert 0 < line.cost < 0.001
    assert untold == ()


async def test_an_outage_of_the_marketplace_costs_nothing_here_either(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        await both.post()
        before = await both.there()
        gone_at = both.market.clock.now()
        both.advance(7200)
        both.market.context.away = (Span(gone_at, both.market.clock.now()),)
        await both.post()

        assert (await both.here()).reliability == await both.there()
        assert await both.there() >= before
