"""Scheduled jobs are sent, changed and deleted with the rights that an API key has then."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.marketplace.db.tables import api_keys
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.scheduling import HOUR_S, PATH, job, pass_time, post, reboots, schedule, shown
from tests.marketplace.support import Answer, Api, Market

JOBS: dict[str, Any] = {"api.command.schedule_job": {}}
REBOOTS: dict[str, Any] = {**JOBS, "api.instance.reboot": {}}


async def limited(market: Market, opened: dict[str, Any]) -> tuple[int, Api]:
    """A key of the renter's, and its number."""
    rights = {"api": {"instance_write": opened}}
    made = await market.renter.call("POST", "/api/v0/auth/apikeys/", {"name": "few", "permissions": rights})
    return int(made.body["id"]), market.anyone.using(made.body["key"])


async def narrow(market: Market, key_id: int, opened: dict[str, Any] | None) -> None:
    """`opened` None: the key is deleted."""
    if opened is None:
        await market.renter.call("DELETE", f"/api/v0/auth/apikeys/{key_id}/")
        return
    rights = json.dumps({"api": {"instance_write": opened}})
    async with market.context.engine.begin() as tx:
        await tx.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(permissions=rights))


@pytest.mark.parametrize("left", [None, JOBS, {**JOBS, "api.instance.reboot": {"constraints": {"id": {"eq": 999}}}}])
async def test_a_job_ends_with_the_rights_of_its_key(tmp_path: Path, left: dict[str, Any] | None) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        key_id, few = await limited(market, REBOOTS)
        made = await post(market, job(instance_id), by=few)
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 1

        await narrow(market, key_id, left)
        await pass_time(market, HOUR_S)

        (row,) = await shown(market)
        assert await reboots(market, instance_id) == 1
        assert "[not_authorized]" in row["last_result"]
        assert row["next_run_time"] is None
        changed = await market.renter.call("PUT", f"{PATH}{made.body['id']}/", {})
        assert changed.status == 200, changed.body
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 2, "it is the job of the key that changed it"


async def test_a_key_changes_and_deletes_only_what_it_may_ask_for(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        _, few = await limited(market, REBOOTS)
        recycle = await schedule(market, job(instance_id, "recycle"))
        reboot = await schedule(market, job(instance_id))

        async def ask(method: str, job_id: int, body: dict[str, Any]) -> Answer:
            return await few.call(method, f"{PATH}{job_id}/", body)

        refused = [await ask("DELETE", recycle, {}), await ask("PUT", recycle, job(instance_id, frequency="HOURLY"))]

        assert [(answer.status, answer.body["error"]) for answer in refused] == [(403, "not_authorized")] * 2
        assert len(await shown(market)) == 2
        assert (await ask("DELETE", reboot, {})).status == 200
        assert [row["id"] for row in await shown(market)] == [recycle]
