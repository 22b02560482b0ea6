from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import reliability as rules
from kaalia.contracts.maintenance import Window
from kaalia.marketplace import away, liveness, machines, maintenances
from kaalia.marketplace.db import availability_tables, tables
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.availability import Cause, Outage, Record
from kaalia.model.metering import Meter
from tests.marketplace.support import Market, add_machine, open_market
from tests.support.clock import START


def machine(silent_s: float, watched_s: float, silence_s: float = 0.0) -> MachineRecord:
    """Watched for so long until it was last heard of, and silent for a part of that."""
    heard_at = START - timedelta(seconds=silence_s)
    watched_from = heard_at - timedelta(seconds=watched_s)
    return MachineRecord(
        id=1,
        user_id=1,
        public_key="",
        fingerprint="",
        enrolled_at=START,
        revision=1,
        report=None,
        listing=None,
        last_seen_at=heard_at,
        stream_id=None,
        acked_seq=0,
        applied_revision=0,
        verification="unverified",
        availability=replace(rules.begun(watched_from, timedelta(seconds=silent_s)), is_rented=True),
    )


def test_a_new_machine_is_reliable_enough_for_a_self_test() -> None:
    assert liveness.reliability(machine(0, 0), START) > 0.90


def test_a_record_outweighs_the_prior() -> None:
    month_s = 30 * 86400

    assert liveness.reliability(machine(0, month_s), START) > 0.99
    assert liveness.reliability(machine(month_s / 2, month_s), START) < 0.60


def test_a_silence_that_goes_on_counts_once_it_is_long() -> None:
    short = liveness.reliability(machine(0, 86400, silence_s=170), START)
    long = liveness.reliability(machine(0, 86400, silence_s=3 * 86400), START)

    assert short == pytest.approx(liveness.reliability(machine(0, 86400), START), abs=1e-4)
    assert long < 0.75


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_reliability_is_a_fraction(online_s: float, silent_s: float, silence_s: float) -> None:
    value = liveness.reliability(machine(silent_s, online_s + silent_s, silence_s), START)

    assert 0 <= value <= 1


async def heard(market: Market, machine_id: int, gap_s: float, **more: Any) -> Record:
    market.clock.advance(gap_s)
    async with market.context.engine.begin() as tx:
        record = await liveness.seen(tx, machine_id, market.clock.now(), **more)
    assert record is not None
    return record


async def known(market: Market, machine_id: int) -> MachineRecord:
    async with market.context.engine.begin() as tx:
        record = await machines.get(tx, machine_id)
    assert record is not None
    return record


async def test_gaps_count_as_online_or_as_silence(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        began_at, machine_id = market.clock.now(), await add_machine(market.context)
        for gap_s in (60, 180, 1000, 60):
            await heard(market, machine_id, gap_s)
        record = await known(market, machine_id)

    assert record.availability is not None
    assert record.availability.watched_from == began_at
    (silence,) = record.availability.silences
    assert silence.begin_at == began_at + timedelta(seconds=240)
    assert silence.end_at == began_at + timedelta(seconds=1240)
    assert not silence.is_rented
    assert record.last_seen_at == market.clock.now()


async def test_a_clock_that_goes_back_takes_nothing_away(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        async with market.context.engine.begin() as tx:
            await liveness.seen(tx, machine_id, market.clock.now() - timedelta(hours=1))
        record = await known(market, machine_id)

    assert record.availability == rules.begun(market.clock.now())
    assert record.last_seen_at == market.clock.now()


async def test_a_machine_of_before_there_were_records_keeps_its_sums(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        async with market.context.engine.begin() as tx:
            await tx.execute(sa.delete(availability_tables.availability))
            await tx.execute(sa.update(tables.machines).values(observed_s=20 * 86400.0, online_s=19 * 86400.0))
        before = liveness.reliability(await known(market, machine_id), market.clock.now())
        await heard(market, machine_id, 60)
        after = liveness.reliability(await known(market, machine_id), market.clock.now())

    assert before == pytest.approx(1 - (1 + 0.05 * 7) / 27, abs=1e-6)
    assert after == pytest.approx(before, abs=1e-4)


async def test_rented_is_what_somebody_else_pays_for(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        owner_id = (await known(market, machine_id)).user_id
        answers = []
        for user_id, meter, ended_at in (
            (owner_id, Meter.RUN, None),
            (owner_id + 1, Meter.DISK, None),
            (owner_id + 1, Meter.RUN, 5.0),
            (owner_id + 1, Meter.RUN, None),
        ):
            async with market.context.engine.begin() as tx:
                row: dict[str, Any] = {"contract_id": 1, "machine_id": machine_id, "host_id": owner_id, "quantity": 1}
                row |= {"user_id": user_id, "meter": meter, "started_at": 1.0, "ended_at": ended_at}
                await tx.execute(sa.insert(tables.charges).values(row))
            answers.append((await heard(market, machine_id, 60)).is_rented)
        (silence,) = (await heard(market, machine_id, 600)).silences

    assert answers == [False, False, False, True]
    assert silence.is_rented


async def test_no_word_of_the_hosts_betters_its_figure(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        honest, liar = await add_machine(market.context), await add_machine(market.context)
        await heard(market, honest, 3600)
        await heard(market, liar, 0)
        now = market.clock.now()
        excuses = [Outage(now - timedelta(hours=2), None, cause, False, "not me") for cause in Cause] * 100
        record = await heard(market, liar, 60, told=excuses)
        figures = [liveness.reliability(await known(market, one), market.clock.now()) for one in (honest, liar)]

    assert figures[0] == figures[1]
    assert record.silences[0].cause is not None


async def test_a_window_that_is_over_counts_until_the_machine_is_back(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        await _schedule(market, machine_id, timedelta(days=2))
        await heard(market, machine_id, 2 * 86400 + 300)
        market.clock.advance(3600)  # the window has passed, and the machine is still away
        await _schedule(market, machine_id, timedelta(days=9))
        record = await heard(market, machine_id, 60)

    assert [round(one.planned_s) for one in record.silences][-1] == 3300


async def _schedule(market: Market, machine_id: int, ahead: timedelta) -> None:
    """An hour of maintenance."""
    now = market.clock.now()
    window = Window(now + ahead, now + ahead + timedelta(hours=1), now)
    async with market.context.engine.begin() as tx:
        machine = await machines.get(tx, machine_id)
        assert machine is not None
        await maintenances.schedule(tx, machine, window, now)


async def test_what_the_marketplace_missed_costs_no_machine(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        await away.look(market.context)
        market.clock.advance(3600)
        market.context.looked = None  # another process of it
        await away.look(market.context)
        online = liveness.reliability(await known(market, machine_id), market.clock.now(), away=market.context.away)
        record = await heard(market, machine_id, 20, away=market.context.away)

    assert [one.end_at - one.begin_at for one in market.context.away] == [timedelta(hours=1)]
    assert record.silences == ()
    assert online > 0.95


async def test_a_marketplace_that_runs_is_not_away(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        for _ in range(20):
            market.clock.advance(25)
            await away.look(market.context)
        market.context.looked = None
        market.clock.advance(25)
        await away.look(market.context)
        assert not market.context.away

        market.clock.suspend(3600)
        await away.look(market.context)
        (slept,) = market.context.away

        market.clock.advance(40 * 86400)
        await away.look(market.context)

    assert slept.end_at - slept.begin_at >= timedelta(hours=1)
    assert not market.context.away, "a month later nothing depends on it"


async def test_offline_machines_are_shown_and_cannot_be_rented(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine()
        market.clock.advance(179)
        before = await market.search()
        market.clock.advance(2)
        after = await market.search()
        rentable = await market.search(rentable={"eq": True})
        row = (await market.host.call("GET", "/api/v0/machines")).body["machines"][0]

    assert all(offer["rentable"] for offer in before)
    assert len(after) == len(before)
    assert not any(offer["rentable"] or offer["rented"] for offer in after)
    assert {(offer["error_description"], offer["vericode"]) for offer in before} == {(None, 0)}
    assert {(offer["error_description"], offer["vericode"]) for offer in after} == {("machine_offline", 0)}
    assert rentable == []
    assert row["error_description"] == "offline: not heard of for 181 s"
