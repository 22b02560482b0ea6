"""Offer search with the real client."""

from pathlib import Path

from kaalia.model.machine import GpuDriver
from tests.marketplace.support import open_market
from tests.support.machines import machine_report


async def test_search_offers_as_rows_and_as_a_table(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))
        renter = market.client(market.renter)

        hidden = await renter.json("search", "offers")
        rows = await renter.json("search", "offers", "verified=any")
        table = await renter.run("search", "offers", "verified=any")

    assert hidden == []
    assert [row["num_gpus"] for row in rows] == [2, 1, 1]
    assert "invalid return" not in table.stdout + table.stderr
    assert table.returncode == 0, table.stderr
    assert "RTX_4090" in table.stdout
    assert table.stdout.count("unverified") == 3


async def test_filters_order_and_limit_mean_what_the_help_says(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=4))
        await market.list_machine(machine_report(gpus=1, gpu_name="NVIDIA H100 80GB HBM3"), price_gpu=2)
        renter = market.client(market.renter)
        query = (
            f"verified=any gpu_name=RTX_4090 num_gpus>=2 gpu_ram>20 cuda_vers>=12.1 rented=any duration>3 "
            f"driver_version>=535.86.05 machine_id={machine_id}"
        )

        filtered = await renter.json("search", "offers", query, "-o", "dph,num_gpus-", "--limit", "2")
        by_name = await renter.json("search", "offers", "verified=any gpu_name in [H100_SXM,RTX_5090]")
        too_new = await renter.json("search", "offers", "verified=any driver_version>=560.00.00")
        cheap = await renter.json("search", "offers", "verified=any dph<1 num_gpus>1 cpu_ram>100")
        newer = await renter.json("search", "offers", "--new", "verified=any gpu_name=H100_SXM")

    assert [row["num_gpus"] for row in filtered] == [2, 2]
    assert [row["gpu_name"] for row in by_name] == ["H100 SXM"]
    assert too_new == []
    assert [row["num_gpus"] for row in cheap] == [2, 2]
    assert [row["gpu_name"] for row in newer] == ["H100 SXM"]


async def test_prices_contain_the_storage_that_was_asked_for(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1), price_disk=0.73)
        renter = market.client(market.renter)

        small = await renter.json("search", "offers", "verified=any", "--storage", "10")
        large = await renter.json("search", "offers", "verified=any", "--storage", "100")

    assert small[0]["dph_total"] == 0.41
    assert large[0]["dph_total"] == 0.5


async def test_bids_and_reserved_offers_have_prices_of_their_own(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1), price_min_bid=0.1, credit_discount_max=0.25, price_disk=0)
        renter = market.client(market.renter)

        bids = await renter.json("search", "offers", "verified=any", "-i")
        reserved = await renter.json("search", "offers", "verified=any", "-r")
        reserved_table = await renter.run("search", "offers", "verified=any", "-r")

    assert (bids[0]["dph_base"], bids[0]["is_bid"]) == (0.1, True)
    assert (reserved[0]["dph_total"], reserved[0]["discounted_dph_total"]) == (0.4, 0.3)
    assert "0.3" in reserved_table.stdout


async def test_a_simulated_gpu_is_marked_and_found_by_its_plain_name(tmp_path: Path) -> None:
    driver = GpuDriver(version="550.54.15", cuda_version="12.4", simulated=True)
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1, driver=driver))
        renter = market.client(market.renter)

        rows = await renter.json("search", "offers", "verified=any gpu_name=RTX_4090")
        others = await renter.json("search", "offers", "verified=any gpu_name!=RTX_4090")
        table = await renter.run("search", "offers", "verified=any gpu_name=RTX_4090")

    assert [row["gpu_name"] for row in rows] == ["RTX 4090 (simulated)"]
    assert others == []
    assert "(simulated)" in table.stdout


async def test_a_machine_without_a_gpu_is_one_offer(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=0), price_disk=0)
        renter = market.client(market.renter)

        rows = await renter.json("search", "offers", "verified=any")
        table = await renter.run("search", "offers", "verified=any")

    assert [(row["num_gpus"], row["dph_total"], row["gpu_name"]) for row in rows] == [(0, 0.4, None)]
    assert table.returncode == 0, table.stderr
