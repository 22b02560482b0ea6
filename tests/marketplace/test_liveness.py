from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kaalia.marketplace import liveness, machines
from kaalia.marketplace.machines import MachineRecord
from tests.marketplace.support import add_machine, open_market
from tests.support.clock import START


def machine(online_s: float, observed_s: float, silence_s: float = 0.0) -> MachineRecord:
    return MachineRecord(
        id=1,
        user_id=1,
        public_key="",
        fingerprint="",
        enrolled_at=START,
        revision=1,
        report=None,
        listing=None,
        last_seen_at=START - timedelta(seconds=silence_s),
        online_s=online_s,
        observed_s=observed_s,
        stream_id=None,
        acked_seq=0,
        applied_revision=0,
        verification="unverified",
    )


def test_a_new_machine_is_reliable_enough_for_a_self_test() -> None:
    assert liveness.reliability(machine(0, 0)) > 0.90


def test_a_record_outweighs_the_prior() -> None:
    month_s = 30 * 86400

    assert liveness.reliability(machine(month_s, month_s)) > 0.99
    assert liveness.reliability(machine(month_s / 2, month_s)) < 0.60


def test_a_silence_that_goes_on_counts_once_it_is_long() -> None:
    short = liveness.reliability(machine(86400, 86400, silence_s=170), START)
    long = liveness.reliability(machine(86400, 86400, silence_s=3 * 86400), START)

    assert short == liveness.reliability(machine(86400, 86400))
    assert long < 0.75


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_reliability_is_a_fraction(online_s: float, silent_s: float, silence_s: float) -> None:
    value = liveness.reliability(machine(online_s, online_s + silent_s, silence_s), START)

    assert 0 <= value <= 1


async def test_gaps_count_as_online_or_as_silence(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        for gap_s in (60, 180, 1000, 60):
            market.clock.advance(gap_s)
            async with market.context.engine.begin() as tx:
                await liveness.seen(tx, machine_id, market.clock.now())
        async with market.context.engine.begin() as tx:
            record = await machines.get(tx, machine_id)

    assert record is not None
    assert record.observed_s == 1300
    assert record.online_s == 300
    assert record.last_seen_at == market.clock.now()


async def test_a_clock_that_goes_back_takes_nothing_away(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await add_machine(market.context)
        async with market.context.engine.begin() as tx:
            await liveness.seen(tx, machine_id, market.clock.now() - timedelta(hours=1))
            record = await machines.get(tx, machine_id)

    assert record is not None
    assert (record.observed_s, record.last_seen_at) == (0, market.clock.now())


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
    assert rentable == []
    assert row["error_description"] == "offline: not heard of for 181 s"
