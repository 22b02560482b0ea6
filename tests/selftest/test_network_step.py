"""The step `network` has the line measured by who measures it, and takes that back when it is broken off."""

import pytest

from kaalia.model.selftest import RunResult, StepName
from kaalia.model.speed import Direction, SpeedOrder, SpeedProgress
from kaalia.selftest.step import Settings
from kaalia.store import speed
from kaalia.store.changes import Topic
from tests.selftest.trials import Trial


@pytest.fixture
def measuring(trial: Trial) -> Trial:
    trial.settings = Settings(probes_ports=False)
    return trial


async def test_who_breaks_it_off_has_the_line_back(measuring: Trial) -> None:
    store = measuring.bench.rig.store
    await measuring.start()
    number = await measuring.order(only=(StepName.NETWORK,))
    await measuring.until_told("the speed of the line is measured")
    assert await store.read(speed.get_order) == SpeedOrder(measuring.bench.clock.now())

    await measuring.cancel(number)

    assert (await measuring.ended()).result is RunResult.NOT_RUN
    assert await store.read(speed.get_order) is None
    await measuring.bench.gone()


async def test_what_the_owner_measures_is_waited_for_and_left_alone(measuring: Trial) -> None:
    store, now = measuring.bench.rig.store, SpeedProgress(Direction.DOWN, 0.5, 900.0)
    await store.transaction(lambda tx: speed.put_progress(tx, now))
    await measuring.start()
    number = await measuring.order(only=(StepName.NETWORK,))
    await measuring.until_told("the speed of the line is measured")

    await measuring.cancel(number)

    await measuring.ended()
    assert await store.read(speed.get_progress) == now
    await store.transaction(lambda tx: speed.put_progress(tx, None), Topic.SPEED)
