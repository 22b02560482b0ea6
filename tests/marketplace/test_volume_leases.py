"""The end of volumes, by the real client: aligned with the machine's, moved by new terms, and what comes after it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kaalia.marketplace import jobs, volumes
from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import accept, hear_of, rent, revision_of, say
from tests.marketplace.support import Market, open_market
from tests.marketplace.test_volumes import create, refused, thousand_gb, volume_offers

DAY_S = 86400


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    """A machine listed for ten days, with 500 GB for volumes at 0.1 $/GB/month."""
    async with open_market(tmp_path) as market:
        await market.list_machine(thousand_gb(), vol_size=500, vol_price=0.1, **ends(market, 10))
        yield market


def ends(market: Market, days: float) -> dict[str, float]:
    return {"end_date": market.clock.now().timestamp() + days * DAY_S}


async def relist(market: Market, **terms: Any) -> int:
    """How many contracts it extended, as the owner reads it."""
    answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", {"machine": 1, **terms})
    assert answer.status == 200, answer.body
    return int(answer.body["extended"])


async def pass_days(market: Market, days: float) -> None:
    market.clock.advance(days * DAY_S)
    await hear_of(market)


async def shown(market: Market) -> dict[str, Any]:
    (row,) = await market.client(market.renter).json("show", "volumes")
    return dict(row)


async def days_left(market: Market) -> float | None:
    end_date = (await shown(market))["end_date"]
    return None if end_date is None else round((end_date - market.clock.now().timestamp()) / DAY_S, 6)


async def test_a_volume_ends_with_the_offer_and_the_machine_is_told_so(market: Market) -> None:
    volume_id = await create(market, 20)

    assert await days_left(market) == 10
    async with market.context.engine.begin() as tx:
        (told,) = await volumes.of_machine(tx, 1)
    assert told.end_at is not None
    assert told.end_at.timestamp() == (await shown(market))["end_date"]
    assert volume_id == told.volume_id


async def test_the_end_of_the_machines_offer_is_that_of_its_volume_offer(market: Market) -> None:
    far = market.clock.now().timestamp() + 99 * DAY_S
    assert (await market.client(market.host).run("list", "volume", "1", "-s", "500", "-e", str(far))).returncode == 0
    (aligned,) = await volume_offers(market)
    await relist(market, **ends(market, 30))
    (moved,) = await volume_offers(market)

    assert (aligned["duration"], moved["duration"]) == (10 * DAY_S, 30 * DAY_S)


async def test_a_volume_offer_by_itself_has_its_own_end_three_months_away_by_default(market: Market) -> None:
    await market.client(market.host).run("unlist", "machine", "1")
    assert await volume_offers(market) == []
    assert (await market.client(market.host).run("list", "volume", "1", "-s", "500")).returncode == 0

    (alone,) = await volume_offers(market)

    assert alone["duration"] == 90 * DAY_S


async def test_new_terms_that_are_later_and_not_dearer_extend_it_at_the_old_price(market: Market) -> None:
    await create(market, 20)
    revision = await revision_of(market)

    assert await relist(market, vol_price=0.05, **ends(market, 20)) == 1
    assert await days_left(market) == 20
    assert await revision_of(market) > revision
    assert (await shown(market))["storage_cost"] == 0.1
    assert await relist(market, vol_price=0.2, **ends(market, 30)) == 0
    assert await relist(market, vol_price=0.1, **ends(market, 5)) == 0
    assert await relist(market, vol_size=0, **ends(market, 40)) == 0
    assert await days_left(market) == 20


async def test_the_daily_step_of_a_rolling_duration_extends_it(market: Market) -> None:
    await relist(market, duration="20 days")
    await create(market, 20)
    await pass_days(market, 1)
    revision = await revision_of(market)

    await jobs.once(market.context)

    assert await days_left(market) == 20
    assert await revision_of(market) > revision


async def test_a_volume_listed_alone_extends_it_too(market: Market) -> None:
    await create(market, 20)
    host = market.client(market.host)
    await host.run("unlist", "machine", "1")
    far = market.clock.now().timestamp() + 50 * DAY_S

    dearer = await host.json("list", "volume", "1", "-s", "500", "-p", "0.2", "-e", str(far))
    same = await host.json("list", "volume", "1", "-s", "500", "-p", "0.1", "-e", str(far))

    assert (dearer["extended"], same["extended"]) == (0, 1)
    assert await days_left(market) == pytest.approx(50, abs=0.01)


async def test_after_its_end_no_new_instance_mounts_it(market: Market) -> None:
    volume_id = await create(market, 20)
    await relist(market, vol_price=0.2, **ends(market, 90))
    await pass_days(market, 10)

    answer = await accept(market, env={f"-v V.{volume_id}:/data": "1"})
    linked = await accept(market, volume_info={"volume_id": volume_id, "mount_path": "/data"})

    for refusal in (answer, linked):
        assert (refusal.status, refusal.body["error"]) == (400, "volume_expired")
        assert refusal.body["msg"].startswith(
            f"cannot mount volume {volume_id}: its contract ended at 2026-01-11 12:00"
        )
    assert (await shown(market))["status"] == "expired"


async def test_an_expired_volume_is_cleaned_up_after_48_hours_unless_it_is_mounted(market: Market) -> None:
    host = market.client(market.host)
    used, loose = await create(market, 20), await create(market, 30)
    await relist(market, vol_price=0.2, price_gpu=0.4, **ends(market, 90))  # dearer for volumes only
    instance = await rent(market, env={f"-v V.{used}:/data": "1"})
    await pass_days(market, 12 - 0.001)
    early = await host.json("cleanup", "machine", "1")
    await pass_days(market, 0.001)
    revision = await revision_of(market)
    due = await host.json("cleanup", "machine", "1")
    again = await host.json("cleanup", "machine", "1")

    assert (early["num_deleted"], due["num_deleted"], again["num_deleted"]) == (0, 1, 0)
    assert await revision_of(market) > revision
    assert (await shown(market))["id"] == used
    assert await refused(market, "DELETE", f"/api/v0/volumes/?id={loose}", {}) == (404, "no_such_volume")
    await say(market, instance, WorkloadState.RUNNING)
    await market.client(market.renter).run("destroy", "instance", str(instance), "-y")
    assert (await host.json("cleanup", "machine", "1"))["num_deleted"] == 1


async def test_the_renter_may_delete_an_expired_volume_at_once(market: Market) -> None:
    volume_id = await create(market, 20)
    await pass_days(market, 11)

    gone = await market.client(market.renter).run("delete", "volume", str(volume_id))

    assert "Deleted" in gone.stdout, gone.stderr
