"""Ports of a container answer by TCP and UDP, from this machine and, where a prober looks, from outside."""

from datetime import datetime, timedelta

from kaalia.model import canary
from kaalia.model.reach import PortMap
from kaalia.model.selftest import Figure, Outcome, StepName, StepResult
from kaalia.model.workload import Protocol
from kaalia.selftest.step import Here, failed
from kaalia.selftest.steps.launch import not_up
from kaalia.selftest.waiting import until
from kaalia.store import conditions, reach
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction

FRESH = timedelta(minutes=10)
PROBE_S = 90.0
"""A large range takes longer; then the map before it is told."""
REMEDY = "see whether other rules stand in the way: iptables -t nat -S, nft list ruleset; and: kaalia ports"


async def run(here: Here) -> StepResult:
    if here.running is None:
        return not_up(here, StepName.PORTS)
    seen = (await here.proven())[canary.Step.PORTS]
    found = await _map(here)
    figures = _figures(found)
    if seen.outcome is Outcome.FAILED:
        return failed(StepName.PORTS, "canary_ports_failed", seen.words, REMEDY)
    words = f"{seen.words}; {_told(found)}"
    if found is not None and not found.is_blind and not found.open_count(Protocol.TCP):
        return StepResult(StepName.PORTS, Outcome.FAILED, words, "selftest_no_ports", REMEDY, figures=figures)
    return StepResult(StepName.PORTS, Outcome.PASSED, words, figures=figures)


async def _map(here: Here) -> PortMap | None:
    """The newest; a new one where a prober is configured and there is time."""
    found = await here.database.read(reach.get_map)
    now = here.clock.now()
    if not here.settings.probes_ports or here.order.is_quick or (found and now - found.probed_at < FRESH):
        return found
    await here.database.transaction(lambda tx: reach.order(tx, now), Topic.PORTS)
    here.tell(None, "a prober tries the ports")
    await until(here.changes, (Topic.PORTS, Topic.CONDITIONS), here.database, lambda tx: _is_over(tx, now), PROBE_S)
    return await here.database.read(reach.get_map)


def _is_over(tx: Transaction, since: datetime) -> bool:
    """A new map, or a word why there is none."""
    found = reach.get_map(tx)
    is_new = found is not None and found.probed_at >= since
    return (
        is_new
        or reach.get_progress(tx) is None
        or any(one.source == reach.SOURCE_PROBER and one.since >= since for one in conditions.all_open(tx))
    )


def _told(found: PortMap | None) -> str:
    if found is None:
        return "no prober has tried the ports from outside"
    if found.is_blind:
        return "what the outside reaches is not known"
    tcp, udp = found.open_count(Protocol.TCP), found.open_count(Protocol.UDP)
    return f"from outside {tcp} TCP and {udp} UDP ports of {len(found.port_range)} are open"


def _figures(found: PortMap | None) -> tuple[Figure, ...]:
    if found is None or found.is_blind:
        return ()
    return (
        Figure("tcp_ports", found.open_count(Protocol.TCP), "ports"),
        Figure("udp_ports", found.open_count(Protocol.UDP), "ports"),
    )
