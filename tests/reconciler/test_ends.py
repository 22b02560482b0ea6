"""Safe mode stops what its label ends, and nothing else ever."""

import asyncio
from datetime import timedelta

import pytest

from kaalia.reconciler import ends
from kaalia.reconciler.ends import EndsService
from kaalia.store import contracts
from kaalia.store import ends as records
from kaalia.store.database import Transaction
from kaalia.store.ends import Ends
from tests.reconciler.rig import Rig, contract


async def turns(rig: Rig, seconds: float = 0.2, recorded: Ends | None = None) -> None:
    """Let safe mode look for a while."""

    async def runtimes() -> list[object]:
        return [rig.runtime]

    service = EndsService(runtimes, lambda: recorded or {}, rig.clock)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(service.run(), seconds)


async def test_safe_mode_stops_what_is_over_and_touches_nothing_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "LOOK_MIN_S", 0.01)
    soon, late = rig.clock.now() + timedelta(hours=1), rig.clock.now() + timedelta(hours=5)
    await rig.put(contract(51, end_at=soon), contract(52, end_at=late))
    await rig.settle()
    calls = len(rig.runtime.calls)

    await turns(rig)
    assert set(rig.runtime.running()) == {51, 52}

    rig.clock.advance(3601)
    await turns(rig)

    assert set(rig.runtime.running()) == {52}
    assert {51, 52} == set(rig.runtime.containers)
    assert {call[0] for call in rig.runtime.calls[calls:]} <= {"observe", "stop"}


async def test_safe_mode_goes_on_when_the_engine_is_silent(rig: Rig) -> None:
    await rig.put(contract(51, end_at=rig.clock.now() + timedelta(hours=1)))
    await rig.settle()
    rig.clock.advance(3601)
    rig.runtime.go_down()

    await turns(rig)

    assert rig.runtime.count("stop") == 0


async def test_safe_mode_goes_by_the_recorded_end_where_it_is_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "LOOK_MIN_S", 0.01)
    start = rig.clock.now()
    soon, later = start + timedelta(hours=1), start + timedelta(hours=2)
    await rig.put(contract(51, end_at=soon), contract(52, end_at=soon))
    await rig.settle()
    rig.clock.advance(3601)

    await turns(rig, recorded={51: later, 52: start})
    assert set(rig.runtime.running()) == {51}

    rig.clock.advance(3600)
    await turns(rig, recorded={51: later})
    assert rig.runtime.running() == {}


async def test_recovered_books_do_not_end_what_was_extended(rig: Rig) -> None:
    """After `enroll --recover` the books are empty until the marketplace speaks, and labels are old."""
    soon, later = rig.clock.now() + timedelta(hours=1), rig.clock.now() + timedelta(hours=2)
    await rig.put(contract(51, end_at=soon))
    await rig.settle()

    def lose(tx: Transaction) -> None:
        contracts.upsert(tx, contract(51, end_at=later), rig.clock.now())
        records.keep(tx, rig.clock.now(), have_moved=True)
        for table in ("contracts", "workloads", "claims", "intents", "snapshot"):
            tx.execute(f"DELETE FROM {table}")

    await rig.store.transaction(lose)
    await rig.restart()
    await rig.later(minutes=61)
    assert set(rig.runtime.running()) == {51}

    await rig.later(minutes=60)
    assert rig.runtime.running() == {}
