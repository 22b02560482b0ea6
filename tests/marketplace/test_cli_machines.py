"""The owner's commands of the real client."""

from pathlib import Path

from tests.marketplace.support import add_machine, open_market


async def test_show_machines_prints_rows_and_a_table(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(price_min_bid=0.2, price_inetu=0.01)
        host = market.client(market.host)

        raw = await host.json("show", "machines")
        table = await host.run("show", "machines")
        one = await host.json("show", "machine", str(machine_id))
        one_table = await host.run("show", "machine", str(machine_id))

    assert [row["id"] for row in raw["machines"]] == [machine_id]
    assert raw["machines"][0]["num_gpus"] == 8
    assert raw["machines"][0]["gpu_name"] == "RTX 4090"
    for done in (table, one_table):
        assert done.returncode == 0, done.stderr
        assert "RTX_4090" in done.stdout
        assert "unverified" in done.stdout
        assert "0.40" in done.stdout
    assert one[0]["listed_gpu_cost"] == 0.4
    assert one[0]["min_bid_price"] == 0.2


async def test_show_machines_without_a_report_prints_a_table(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await add_machine(market.context, reported=False)
        table = await market.client(market.host).run("show", "machines")

    assert table.returncode == 0, table.stderr
    assert "unverified" in table.stdout


async def test_list_machine_makes_offers_and_unlist_takes_them_back(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = str(await add_machine(market.context))
        host = market.client(market.host)
        terms = ("-g", "0.4", "-s", "0.1", "-u", "0.01", "-d", "0.02", "-b", "0.2", "-r", "0.3", "-m", "2")
        listed = await host.run("list", "machine", machine_id, *terms, "-e", "12/31/2026")
        offers = await market.search()
        unlisted = await host.run("unlist", "machine", machine_id)
        left = await market.search()

    assert f"offers created/updated for machine {machine_id}" in listed.stdout, listed.stderr
    assert sorted(offer["num_gpus"] for offer in offers) == [2, 2, 2, 2, 4, 4, 8]
    assert offers[0]["end_date"] == 1798675200.0
    assert offers[0]["inet_down_cost"] == 0.02
    assert "delisted" in unlisted.stdout
    assert left == []


async def test_list_machine_by_duration_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = str(await add_machine(market.context))
        host = market.client(market.host)
        good = await host.run("list", "machine", machine_id, "-g", "0.4", "-l", "3 months")
        bad = await host.run("list", "machine", machine_id, "-g", "0.4", "-l", "soon")
        offers = await market.search()

    assert "offers created" in good.stdout
    assert offers[0]["duration"] == 90 * 86400
    assert "error 400: cannot list with this duration" in bad.stderr
    assert "3 months" in bad.stderr


async def test_set_min_bid_changes_the_floor(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = str(await market.list_machine())
        done = await market.client(market.host).run("set", "min-bid", machine_id, "--price", "0.15")
        offers = await market.search(type="bid", num_gpus={"eq": 2})

    assert "min bid price changed" in done.stdout, done.stderr
    assert offers[0]["min_bid"] == 0.3
    assert offers[0]["dph_base"] == 0.3
    assert offers[0]["is_bid"] is True


async def test_a_foreign_machine_is_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = str(await market.list_machine())
        done = await market.client(market.renter).run("unlist", "machine", machine_id)
        still = await market.search()

    assert f"cannot find machine {machine_id}" in done.stderr
    assert still != []
