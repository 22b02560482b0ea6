"""What bears our labels and cannot be read is told and left alone; everybody else goes on."""

from dataclasses import replace

import pytest

from kaalia.contracts.contract import Desired
from kaalia.model.health import Severity
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.seen import Sight
from kaalia.reconciler.sights import Sights
from kaalia.store import conditions, workloads
from tests.reconciler.rig import Rig, contract
from tests.reconciler.test_sights import RUNNING


async def test_one_unreadable_container_does_not_hold_up_the_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.put(contract(51))
    await rig.settle()
    held, calls = await rig.claims(51), len(rig.runtime.calls)
    rig.runtime.unreadable = {51}

    await rig.put(contract(51, desired=Desired.ENDED), contract(52))
    await rig.later(seconds=60)
    await rig.put(contract(51, desired=Desired.ENDED), contract(52, desired=Desired.STOPPED))
    await rig.later(seconds=60)

    assert await rig.state(52) is WorkloadState.STOPPED
    assert await rig.claims(51) == held, "its GPU and ports are still in use"
    assert await rig.state(51) is WorkloadState.RUNNING
    assert 51 in rig.runtime.running()
    assert not [call for call in rig.runtime.calls[calls:] if call[1] == 51 and call[0] in ("stop", "remove", "start")]
    (wrong,) = await rig.store.read(conditions.all_open)
    assert (wrong.condition.problem.code, wrong.condition.scope) == ("labels_unreadable", "container C.51")
    assert wrong.condition.severity is Severity.CRITICAL
    assert sum("C.51 is set apart" in record.message for record in caplog.records) == 1

    rig.runtime.unreadable.clear()
    await rig.later(seconds=60)

    assert await rig.store.read(conditions.all_open) == ()
    assert await rig.state(51) is WorkloadState.ENDED


async def test_it_stays_apart_across_a_restart_and_without_a_contract(rig: Rig) -> None:
    await rig.put(contract(51))
    await rig.settle()
    held = await rig.claims(51)
    rig.runtime.unreadable = {51}
    await rig.store.transaction(lambda tx: tx.execute("DELETE FROM contracts"))

    await rig.restart()
    await rig.settle()
    await rig.later(seconds=60)

    assert await rig.claims(51) == held
    assert 51 in rig.runtime.running()


async def test_a_container_without_any_number_is_known_by_its_id(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.put(contract(51))
    await rig.settle()
    rig.runtime.unreadable = {51}
    whole = rig.runtime._apart
    monkeypatch.setattr(rig.runtime, "_apart", lambda number: replace(whole(number), contract_ids=frozenset()))

    await rig.later(seconds=60)

    row = await rig.store.read(lambda tx: workloads.get(tx, 51))
    assert row is not None
    assert row.state is WorkloadState.RUNNING, "not lost"
    assert await rig.claims(51)


def test_a_copy_does_not_hide_the_workload_that_it_was_made_of() -> None:
    sights = Sights()

    sights.complete([RUNNING], sights.mark(), busy=(), apart={51, 52})

    assert sights.of(51) == RUNNING
    assert sights.of(52) is Sight.UNKNOWN
    assert sights.of(53) is Sight.ABSENT
