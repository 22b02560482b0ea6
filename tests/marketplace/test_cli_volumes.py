"""The documented example of 1000 GB and 2 GPUs, word for word, by the real client."""

from pathlib import Path

import pytest

from tests.marketplace.support import Market, open_market
from tests.marketplace.test_volumes import thousand_gb

GPU_OFFERS = [(1, 500.0), (1, 500.0), (2, 1000.0)]


async def gpu_offers(market: Market) -> list[tuple[int, float]]:
    rows = await market.client(market.renter).json("search", "offers", "verified=any")
    return sorted((row["num_gpus"], row["disk_space"]) for row in rows)


async def volume_gb(market: Market) -> list[float]:
    rows = await market.client(market.renter).json("search", "volumes", "verified=any")
    return [row["disk_space"] for row in rows]


async def store_an_instance(market: Market, disk_gb: int) -> None:
    """An instance of the whole machine, then stopped: it holds no GPU, and its disk stays."""
    renter = market.client(market.renter)
    asks = await renter.json("search", "offers", "verified=any num_gpus=2")
    made = await renter.json(
        "create", "instance", str(asks[0]["id"]), "--image", "ubuntu:22.04", "--disk", str(disk_gb)
    )
    assert (await renter.run("stop", "instance", str(made["new_contract"]))).returncode == 0


async def test_rented_space_is_split_and_listed_space_is_not(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(thousand_gb(), vol_size=0)
        host, renter = market.client(market.host), market.client(market.renter)
        assert (await host.run("list", "volume", "1", "-s", "500")).returncode == 0
        assert (await gpu_offers(market), await volume_gb(market)) == (GPU_OFFERS, [500.0])

        (offer,) = await renter.json("search", "volumes", "verified=any")
        await renter.json("create", "volume", str(offer["id"]), "-s", "200")

        assert await gpu_offers(market) == [(1, 400.0), (1, 400.0), (2, 800.0)]
        assert await volume_gb(market) == [300.0]


@pytest.mark.parametrize(("stored_gb", "left_gb"), [(800, 200.0), (400, 500.0)])
async def test_stored_instances_take_from_the_volume_offer_what_must_be_taken(
    tmp_path: Path, stored_gb: int, left_gb: float
) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(thousand_gb(), vol_size=500)

        await store_an_instance(market, stored_gb)

        assert await volume_gb(market) == [left_gb]


async def test_by_default_half_of_the_free_disk_is_offered_at_the_same_price(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(thousand_gb(), price_disk=0.25)

        (offer,) = await market.client(market.renter).json("search", "volumes", "verified=any")

        assert (offer["disk_space"], offer["storage_cost"]) == (500.0, 0.25)
