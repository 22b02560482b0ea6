"""What the tests of scheduled jobs share: a job as the client sends it, and time that passes."""

from typing import Any

from kaalia.marketplace import jobs, scheduled_runs
from tests.marketplace.renting import contract_of
from tests.marketplace.support import Answer, Api, Market
from tests.support.clock import START

PATH = "/api/v0/commands/schedule_job/"
HOUR_S = 3600.0


def job(instance_id: int, what: str = "reboot", body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """As the client sends it: hourly, from midnight until a week later; START is 12:00."""
    midnight = START.timestamp() - 12 * HOUR_S
    return {
        "start_time": midnight,
        "end_time": midnight + 7 * 24 * HOUR_S,
        "api_endpoint": f"/api/v0/instances/{what}/{instance_id}/",
        "request_method": "PUT",
        "request_body": {"instance_id": instance_id, **(body or {})},
        "day_of_the_week": None,
        "hour_of_the_day": None,
        "frequency": "HOURLY",
        "instance_id": instance_id,
        **changes,
    }


async def post(market: Market, wanted: dict[str, Any], by: Api | None = None) -> Answer:
    return await (by or market.renter).call("POST", PATH, wanted)


async def schedule(market: Market, wanted: dict[str, Any]) -> int:
    answer = await post(market, wanted)
    assert answer.status == 200, answer.body
    return int(answer.body["id"])


async def shown(market: Market, by: Api | None = None) -> list[dict[str, Any]]:
    answer = await (by or market.renter).call("GET", PATH)
    assert answer.status == 200, answer.body
    return list(answer.body)


async def pass_time(market: Market, seconds: float) -> None:
    market.clock.advance(seconds)
    await jobs.once(market.context)
    await scheduled_runs.run_due(market.context)


async def reboots(market: Market, instance_id: int) -> int:
    return (await contract_of(market, instance_id)).restart_count
