"""The line: a container has its address and reaches the outside, and how fast bytes go both ways."""

from datetime import datetime

from kaalia.model import canary
from kaalia.model.selftest import Figure, Outcome, StepName, StepResult
from kaalia.model.speed import MeasuredSpeed, SpeedOrder
from kaalia.selftest.step import Here, failed
from kaalia.selftest.steps.launch import not_up
from kaalia.selftest.waiting import until
from kaalia.store import speed
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction

SPEED_S = 150.0
"""A test takes 20 s, its retries less than two minutes."""
REMEDY = "see whether other rules stand in the way: iptables -S FORWARD, nft list ruleset"


async def run(here: Here) -> StepResult:
    if here.running is None:
        return not_up(here, StepName.NETWORK)
    seen = (await here.proven())[canary.Step.NETWORK]
    found, why = await _speed(here)
    if seen.outcome is Outcome.FAILED:
        return failed(StepName.NETWORK, "canary_network_failed", seen.words, REMEDY)
    rates = f"{found.down.mbps:.0f} Mb/s down, {found.up.mbps:.0f} Mb/s up" if found else "the speed is not known"
    told = f"{rates} ({why})" if why else rates
    return StepResult(StepName.NETWORK, Outcome.PASSED, f"{seen.words}; {told}", figures=_figures(found))


async def _speed(here: Here) -> tuple[MeasuredSpeed | None, str]:
    """The newest result, and why it is not of now."""
    if not here.settings.measures_speed or here.order.is_quick:
        return await here.database.read(speed.get_result), "not measured now"
    now = here.clock.now()
    is_ours = await here.database.transaction(lambda tx: _order(tx, now), Topic.SPEED)
    here.tell(None, "the speed of the line is measured")
    is_over = False
    try:
        is_over = await until(here.changes, (Topic.SPEED,), here.database, _is_over, SPEED_S)
    finally:
        if is_ours and not is_over:
            await here.database.transaction(lambda tx: speed.withdraw(tx, SpeedOrder(now)), Topic.SPEED)
    found, failure = await here.database.read(lambda tx: (speed.get_result(tx), speed.get_failure(tx)))
    if found is not None and found.measured_at >= now:
        return found, ""
    return found, failure.problem.message if failure else "the test has not ended"


def _order(tx: Transaction, now: datetime) -> bool:
    """False: one is ordered or under way already."""
    if not _is_over(tx):
        return False
    speed.put_order(tx, SpeedOrder(now))
    return True


def _is_over(tx: Transaction) -> bool:
    return speed.get_order(tx) is None and speed.get_progress(tx) is None


def _figures(found: MeasuredSpeed | None) -> tuple[Figure, ...]:
    if found is None:
        return ()
    return (
        Figure("down_mbps", round(found.down.mbps, 1), "Mb/s", spread=found.down.spread),
        Figure("up_mbps", round(found.up.mbps, 1), "Mb/s", spread=found.up.spread),
    )
