"""Safe mode stops what its label ends, and nothing else ever."""

import asyncio
from datetime import timedelta

import pytest

from kaalia.reconciler import ends
from kaalia.reconciler.ends import EndsService
from tests.reconciler.rig import Rig, contract


async def turns(rig: Rig, seconds: float = 0.2) -> None:
    """Let safe mode look for a while."""

    async def runtimes() -> list[object]:
        return [rig.runtime]

    service = EndsService(runtimes, rig.clock)  # type: ignore[arg-type]
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
