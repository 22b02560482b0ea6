"""Two processes on one database: machines, renters, owners and the operator all at the same moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.verification_news import DATA
from kaalia.marketplace import accounts, machines, verification_by_hand
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.engine import open_engine
from kaalia.marketplace.db.verification_tables import benchmarks, gpu_holders, selftests, verifications
from kaalia.model.verification import State
from kaalia.wire.protocol import MessageKind, StatusMessage, Verb
from tests.marketplace import support
from tests.marketplace.liar import Liar, other_machine
from tests.marketplace.support import Answer, Market, open_context, serve
from tests.marketplace.verifying import beat, open_machine, open_verified, prove, record, view, xid
from tests.support.clock import START
from tests.support.sound import notice, sound_report, whole_run

pytestmark = pytest.mark.usefixtures("database")
RENTERS = 6


@asynccontextmanager
async def second_process(market: Market) -> AsyncIterator[Market]:
    """The same marketplace once more: its own connections, its own memory."""
    async with open_context(market.folder, market.clock) as context, serve(context) as url:
        context.signing_key, context.epoch = market.context.signing_key, market.context.epoch
        host, renter = replace_url(market, url)
        yield replace(market, context=context, url=url, host=host, renter=renter)


def replace_url(market: Market, url: str) -> tuple[support.Api, support.Api]:
    return tuple(support.Api(market.anyone._session, url, one.key) for one in (market.host, market.renter))  # type: ignore[return-value]


def through(liar: Liar, market: Market) -> Liar:
    """The same machine, by the other process."""
    return replace(liar, market=market)


async def rented_by(market: Market, machine_id: int, count: int) -> list[support.Api]:
    """Renters who each have an instance there."""
    found = []
    for number in range(count):
        key = await accounts.add_user(market.context.engine, f"renter{number}", False, market.clock.now())
        async with market.context.engine.begin() as tx:
            user = await tx.scalar(sa.select(tables.users.c.id).where(tables.users.c.username == f"renter{number}"))
            await rental(tx, machine_id, int(user or 0))
        found.append(market.anyone.using(key))
    return found


async def rental(tx: AsyncConnection, machine_id: int, user_id: int, ended_at: float | None = None) -> None:
    values = {
        "machine_id": machine_id,
        "user_id": user_id,
        "ask_id": 0,
        "document": "{}",
        "request": "{}",
        "jupyter_token": "",
        "price_terms": "{}",
        "start_date": START.timestamp(),
        "ended_at": ended_at,
    }
    # It is removed, so that nobody looks into what it is.
    await tx.execute(sa.insert(tables.contracts).values(**values, removed_at=START.timestamp()))


async def report(renter: support.Api, machine_id: int) -> Answer:
    body = {"problem": "slow", "message": "10 MB/s"}
    return await renter.call("POST", f"/api/v0/machines/{machine_id}/reports/", body)


async def count(market: Market, table: sa.Table) -> int:
    async with market.context.engine.begin() as tx:
        return int(await tx.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


async def test_posts_tests_reports_and_bars_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    """The next random test is due in the same moment; each machine has one order, every result counts once."""
    async with open_machine(tmp_path) as liar, second_process(liar.market) as other_market:
        other = await other_machine(liar)
        four = sound_report(4)
        await beat(other, StatusMessage(1, MessageKind.REPORT, report=replace(four, gpus=four.gpus[2:])))
        renters = await rented_by(liar.market, liar.machine_id, RENTERS)
        engine, now = other_market.context.engine, liar.market.clock.now

        async def machine(one: Liar, at: int) -> None:
            for number in range(1, 6):
                text = notice(whole_run(now(), 10 * at + number))
                await one.post(stream="s1", conditions=(), selftests=(text,))

        async def renter(one: support.Api) -> list[int]:
            return [(await report(one, liar.machine_id)).status for _ in range(8)]

        taken = await asyncio.gather(
            *(machine(one, at) for at, one in enumerate((liar, through(liar, other_market)))),
            *(machine(one, at) for at, one in enumerate((other, through(other, other_market)))),
            *(renter(one) for one in renters[::2]),
            *(renter(support.Api(one._session, other_market.url, one.key)) for one in renters[1::2]),
            verification_by_hand.bar(engine, liar.machine_id, "looks like fraud", now()),
        )
        await beat(liar)
        await beat(other)
        first, second = await record(liar), await record(other)
        kept, shown = await count(liar.market, selftests), await count(liar.market, benchmarks)
        rows, holders = await count(liar.market, tables.machine_reports), await count(liar.market, gpu_holders)
        async with engine.begin() as tx:
            orders = [row.machine_id for row in await tx.execute(sa.select(tables.tasks)) if _is_test(row.document)]

    limit = DATA["reports"]["a_day"]
    assert [sorted(one or ()) for one in taken[4:10]] == [[200] * limit + [429] * (8 - limit)] * RENTERS
    assert rows == RENTERS * limit
    assert first.verified is not None
    assert (first.verification, first.verified.barred) == ("deverified", "looks like fraud")
    assert second.verification == "unverified"  # its two GPUs were told as those of the other in its tests
    assert kept == 20
    assert holders == 4
    assert len(orders) == len(set(orders))
    assert shown > 0


def _is_test(document: str) -> bool:
    return f'"{Verb.SELF_TEST}"' in document


async def test_one_gpu_in_two_machines_counts_for_one_of_them(tmp_path: Path) -> None:
    """Both name it at the same moment, to two processes."""
    async with open_machine(tmp_path, sound_report(0)) as liar, second_process(liar.market) as other_market:
        other = await other_machine(liar)
        message = StatusMessage(2, MessageKind.REPORT, report=sound_report())
        await asyncio.gather(
            liar.post(message, conditions=()), through(other, other_market).post(message, conditions=())
        )
        told = [await view(one) for one in (liar, other)]

    elsewhere = ["gpus_elsewhere" in [lack.code for lack in one.lacks] for one in told]
    assert sorted(elsewhere) == [False, True]


async def test_a_deletion_and_a_heartbeat_at_the_same_moment_leave_nothing_behind(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar, second_process(liar.market) as other_market:
        path = f"/api/v0/machines/{liar.machine_id}/force_delete/"
        runs = [notice(whole_run(liar.market.clock.now(), number)) for number in range(1, 9)]
        await asyncio.gather(
            *(liar.post(stream=f"s{at}", conditions=(), selftests=(text,)) for at, text in enumerate(runs)),
            other_market.host.call("POST", path, {}),
        )
        left = await count(liar.market, benchmarks), await count(liar.market, selftests)

    assert left == (0, 0)


async def test_processes_that_begin_together_make_the_tables_once(tmp_path: Path) -> None:
    url = support.url_of(tmp_path)
    engines = await asyncio.gather(*(open_engine(url) for _ in range(4)))
    async with engines[0].begin() as tx:
        assert await tx.scalar(sa.select(sa.func.count()).select_from(verifications)) == 0
    for engine in engines:
        await engine.dispose()


async def test_a_database_of_before_the_verification_is_taken_over(tmp_path: Path) -> None:
    """As it was made then: machines, and no table of this. What was verified by hand stays so until it is tested."""
    async with open_verified(tmp_path) as liar:
        engine = liar.market.context.engine
        async with engine.begin() as tx:
            for table in (benchmarks, selftests, verifications, gpu_holders):
                await tx.execute(sa.schema.DropTable(table))
        again = await open_engine(support.url_of(tmp_path))
        await again.dispose()
        await beat(liar)
        kept = await record(liar)
        await beat(liar, conditions=(xid(),))
        down = await view(liar)
        liar.market.clock.advance(1000)
        await beat(liar)
        await beat(liar, after_s=1000)
        await prove(liar, 5)
        await prove(liar, 6)
        proven = await view(liar)

    assert kept.verification == "verified"
    assert (down.state, proven.state) == (State.DEVERIFIED, State.VERIFIED)


async def test_a_backup_that_is_played_back_has_the_machine_judged_by_what_it_says_now(tmp_path: Path) -> None:
    """From before a fault and a test that failed: the fault is told with each heartbeat."""
    async with open_verified(tmp_path) as liar:
        before = await record(liar)
        assert before.verified is not None
        failed = whole_run(liar.market.clock.now(), 2, failed="burn")
        await beat(liar, conditions=(xid(),), selftests=(notice(failed),))
        async with liar.market.context.engine.begin() as tx:
            await machines.put_verification(tx, liar.machine_id, before.verified)
            await tx.execute(sa.delete(selftests).where(selftests.c.run_id == 2))
        await beat(liar, conditions=(xid(),))
        down = await view(liar)
        await beat(liar, conditions=(xid(),), selftests=(notice(failed),))
        told = await view(liar)

    assert [cause.code for cause in down.causes] == ["gpu_xid_79"]
    assert {cause.code for cause in told.causes} == {"gpu_xid_79", "selftest_failed"}
