"""The billing commands of the real client, on what a machine counted."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.marketplace import billing, daemons
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.wire.protocol import MessageKind, StatusMessage, StatusPost
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.support import Market, add_machine

HOUR = timedelta(hours=1)


async def post(market: Market, *entries: Entry, seq: int = 1, stream: str = "a") -> int:
    """The machine sends its journal; returns the acknowledged number."""
    messages = tuple(StatusMessage(seq + at, MessageKind.METER, meter=one) for at, one in enumerate(entries))
    now = market.context.clock.now()
    return (await daemons.take_status(market.context, 1, StatusPost(stream, 1, 1, now, messages))).acked_seq


def edge(market: Market, instance_id: int, meter: Meter, kind: Edge, amount: int, ago: timedelta) -> Entry:
    return Entry(instance_id, 1, meter, kind, market.context.clock.now() - ago, amount)


async def used(market: Market, hours: float = 2, gpus: int = 2) -> int:
    """An instance of 10 GB that ran for so long, and whose disk is still kept."""
    instance_id = await rent(market, gpus, label="mine")
    market.clock.advance(hours * 3600)
    await post(
        market,
        edge(market, instance_id, Meter.DISK, Edge.START, 10 * 1000**3, timedelta(hours=hours)),
        edge(market, instance_id, Meter.RUN, Edge.START, gpus, timedelta(hours=hours)),
        edge(market, instance_id, Meter.RUN, Edge.END, gpus, timedelta(0)),
        stream=f"of {instance_id}",
    )
    return instance_id


RUN_USD = 2 * 0.4 * 2
DISK_USD = 2 * 10 * 0.1 / 730


def at(market: Market, **delta: float) -> str:
    return str(int((market.context.clock.now() + timedelta(**delta)).timestamp()))


async def test_show_invoices_v1_shows_charges_by_instance(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await used(market)
        renter = market.client(market.renter)
        window = ("-s", at(market, days=-1), "-e", at(market, days=0))
        page = await renter.json("show", "invoices-v1", "-c", *window)
        volumes = await renter.json("show", "invoices-v1", "-c", "-ct", "volume", *window)
        tree = await renter.run("show", "invoices-v1", "-c", "-s", "2025-12-30", "-e", "2026-01-02", "-f", "tree", "-v")
        table = await renter.run("show", "invoices-v1", "-c", "-s", "2025-12-30", "-e", "2026-01-02", "--no-color")

    [row] = page["results"]
    assert row["source"] == f"instance-{instance_id}"
    assert row["amount"] == pytest.approx(RUN_USD + DISK_USD)
    assert [item["type"] for item in row["items"]] == ["storage", "gpu"]
    assert row["end"] - row["start"] == 7200
    assert page["total"] == page["count"] == 1
    assert volumes["results"] == []
    for done in (tree, table):
        assert done.returncode == 0, done.stderr
        assert "$1.603" in done.stdout, done.stdout + done.stderr


async def test_show_invoices_v1_shows_what_was_put_in(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        window = ("-s", "2025-12-30", "-e", "2026-01-02")
        page = await renter.json("show", "invoices-v1", "-i", *window)
        prepaid = await renter.json("show", "invoices-v1", "-i", "-it", "reserved", *window)
        table = await renter.run("show", "invoices-v1", "-i", *window, "--no-color")
        searched = await renter.json("search", "invoices", "is_credit=true amount_cents>=1")
        none = await renter.json("search", "invoices", "when>02/01/2026")

    [row] = page["results"]
    assert (row["type"], row["amount"]) == ("credit", -1000.0)
    assert row["metadata"]["invoice_id"] == searched[0]["id"]
    assert prepaid["results"] == none == []
    assert "$1000.00" in table.stdout, table.stdout + table.stderr
    assert searched[0]["amount_cents"] == 100_000


async def test_show_invoices_of_a_label(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await used(market)
        renter = market.client(market.renter)
        window = ("-s", "2025-12-30", "-e", "2026-01-02")
        mine = await renter.json("show", "invoices", *window, "--instance_label", "mine")
        other = await renter.json("show", "invoices", *window, "--instance_label", "other")
        everything = await renter.json("show", "invoices", *window)
        credits = await renter.json("show", "invoices", "-p", *window)
        table = await renter.run("show", "invoices", *window)

    assert {row["instance_id"] for row in mine} == {instance_id}
    assert sum(row["amount"] for row in mine) == pytest.approx(RUN_USD + DISK_USD)
    assert other == []
    assert len(everything) == 3
    assert [row["type"] for row in credits] == ["payment"]
    assert "Current: " in table.stdout, table.stderr
    assert f"Instance_{instance_id}_GPU" in table.stdout.replace(" ", "_")


async def test_show_earnings_by_machine_and_day(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await used(market, hours=24)
        host, renter = market.client(market.host), market.client(market.renter)
        window = ("-s", "2026-01-01", "-e", "2026-01-02")
        rows = await host.json("show", "earnings", *window)
        other = await host.json("show", "earnings", *window, "-m", "77")
        printed = await host.run("show", "earnings")
        nothing = await renter.json("show", "earnings", *window)

    assert rows["summary"]["total_gpu"] == pytest.approx(24 * 0.8)
    assert rows["per_machine"][0]["machine_id"] == 1
    assert rows["per_machine"][0]["sto_earn"] == pytest.approx(24 * 1 / 730)
    assert [day["gpu_earn"] for day in rows["per_day"]] == [pytest.approx(12 * 0.8)] * 2
    assert rows["per_day"][1]["day"] - rows["per_day"][0]["day"] == 1
    assert rows["current"]["total"] == pytest.approx(24 * 0.8 + 24 / 730)
    assert other["per_machine"] == nothing["per_machine"] == []
    assert '"per_day"' in printed.stdout


async def kept(market: Market, hours: float = 2) -> int:
    """A volume of 50 GB at 0.2 $/GB/month that is kept since so long."""
    await market.host.call("POST", "/api/v0/volumes/", {"machine": 1, "size": 100, "price_disk": 0.2})
    answer = await market.renter.call("PUT", "/api/v0/volumes/", {"id": 1, "size": 50})
    assert answer.status == 200, answer.body
    volume_id = int(answer.body["volume_id"])
    market.clock.advance(hours * 3600)
    start = edge(market, volume_id, Meter.VOLUME, Edge.START, 50 * 1000**3, timedelta(hours=hours))
    await post(market, start, stream=f"of volume {volume_id}")
    return volume_id


async def test_a_volume_is_charged_to_its_renter_and_earned_by_its_host(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        # The instance has the volume's number: neither shows up in the other's charges.
        instance_id, volume_id = await used(market), await kept(market)
        assert instance_id == volume_id
        host, renter = market.client(market.host), market.client(market.renter)
        window = ("-s", "2025-12-30", "-e", "2026-01-02")
        page = await renter.json("show", "invoices-v1", "-c", *window)
        volumes = await renter.json("show", "invoices-v1", "-c", "-ct", "volume", *window)
        table = await renter.run("show", "invoices-v1", "-c", "-ct", "v", *window, "--no-color")
        old = await renter.json("show", "invoices", *window)
        labelled = await renter.json("show", "invoices", *window, "--instance_label", "mine")
        earned = await host.json("show", "earnings", "-s", "2026-01-01", "-e", "2026-01-01")
        user = await renter.json("show", "user")

    usd, disk_usd = 2 * 50 * 0.2 / 730, 4 * 10 * 0.1 / 730
    rows = {row["source"]: row for row in page["results"]}
    assert set(rows) == {f"instance-{instance_id}", f"volume-{volume_id}"}
    assert rows[f"volume-{volume_id}"]["amount"] == pytest.approx(usd)
    assert volumes["results"] == [rows[f"volume-{volume_id}"]]
    assert volumes["results"][0]["type"] == "volume"
    assert "storage (50 GB): 2.0000 h" in volumes["results"][0]["items"][0]["description"]
    assert f"║ Volume │ {volume_id}  │ $0.027 │" in table.stdout, table.stdout + table.stderr
    [line] = [row for row in old if row["description"] == f"Volume {volume_id} storage"]
    assert (line["instance_id"], line["amount"]) == (None, pytest.approx(usd))
    assert all(row["instance_id"] == instance_id for row in labelled)
    assert earned["summary"]["total_stor"] == pytest.approx(usd + disk_usd)
    assert earned["per_machine"][0]["sto_earn"] == earned["per_day"][0]["sto_earn"] == pytest.approx(usd + disk_usd)
    assert earned["current"]["total"] == pytest.approx(1000 - user["credit"])


async def test_a_volume_costs_nothing_after_its_delete_and_no_more_than_was_rented(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        volume_id = await kept(market)
        renter = market.client(market.renter)
        assert "Deleted" in (await renter.run("delete", "volume", str(volume_id))).stdout
        market.clock.advance(10 * 3600)  # the machine was away
        await post(
            market,
            edge(market, volume_id, Meter.VOLUME, Edge.END, 50 * 1000**3, timedelta(0)),
            edge(market, volume_id, Meter.VOLUME, Edge.START, 10**15, timedelta(0)),
            stream=f"of volume {volume_id}",
            seq=2,
        )
        market.clock.advance(3600)
        await post(market, seq=9, stream="b")
        spent = 1000 - (await renter.json("show", "user"))["credit"]
        async with market.context.engine.begin() as tx:
            counted = await billing.intervals(tx, volume_id, Meter.VOLUME)
            none = await billing.intervals(tx, volume_id)

    assert spent == pytest.approx(2 * 50 * 0.2 / 730)
    assert [one.ended_at is None for one in counted] == [False, True]
    assert none == ()


async def test_the_price_of_a_volume_is_that_of_its_rental(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await kept(market)
        await market.client(market.host).run("list", "volume", "1", "-p", "7", "-s", "100")
        spent = 1000 - (await market.client(market.renter).json("show", "user"))["credit"]

    assert spent == pytest.approx(2 * 50 * 0.2 / 730)


async def test_a_machine_counts_no_volume_of_another_one(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        volume_id = await kept(market)
        async with market.context.engine.begin() as tx:
            before = await billing.intervals(tx, volume_id, Meter.VOLUME)
            stray = edge(market, volume_id, Meter.VOLUME, Edge.END, 1, timedelta(0))
            unknown = edge(market, 77, Meter.VOLUME, Edge.START, 1, timedelta(0))
        other = await add_machine(market.context)
        now = market.context.clock.now()
        messages = tuple(StatusMessage(at, MessageKind.METER, meter=one) for at, one in enumerate((stray, unknown), 1))
        reply = await daemons.take_status(market.context, other, StatusPost("x", 1, 1, now, messages))
        async with market.context.engine.begin() as tx:
            assert await billing.intervals(tx, volume_id, Meter.VOLUME) == before
            assert await billing.intervals(tx, 77, Meter.VOLUME) == ()

    assert reply.acked_seq == 2


async def test_charges_come_off_the_credit(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        before = await market.client(market.renter).json("show", "user")
        await used(market)
        after = await market.client(market.renter).json("show", "user")

    assert before["credit"] == 1000
    assert after["credit"] == pytest.approx(1000 - RUN_USD - DISK_USD)
    assert after["balance"] == after["credit"]


async def test_what_goes_on_counts_up_to_the_last_word_of_the_machine(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 1)
        now = edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0))
        await post(market, now)
        market.clock.advance(3600)
        await post(market, seq=2)
        market.clock.advance(3600)
        silent = await market.client(market.renter).json("show", "user")
        await post(market, seq=2)
        heard = await market.client(market.renter).json("show", "user")

    assert silent["credit"] == pytest.approx(1000 - 0.4)
    assert heard["credit"] == pytest.approx(1000 - 0.8)


async def test_nothing_is_charged_after_the_destroy(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 1)
        start = edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0))
        await post(market, start)
        market.clock.advance(3600)
        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        market.clock.advance(3 * 3600)
        await post(market, edge(market, instance_id, Meter.RUN, Edge.END, 1, timedelta(0)), seq=2)
        user = await market.client(market.renter).json("show", "user")
        async with market.context.engine.begin() as tx:
            [counted] = await billing.intervals(tx, instance_id)

    assert user["credit"] == pytest.approx(1000 - 0.4)
    assert counted.ended_at is not None
    assert counted.ended_at - counted.started_at == 4 * HOUR


async def test_a_line_that_comes_twice_counts_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 1)
        market.clock.advance(7200)
        lines = (
            edge(market, instance_id, Meter.RUN, Edge.START, 1, 2 * HOUR),
            edge(market, instance_id, Meter.RUN, Edge.END, 1, HOUR),
        )
        acked = await post(market, *lines)
        await post(market, *lines)
        await post(market, *lines, stream="an older copy")
        async with market.context.engine.begin() as tx:
            counted = await billing.intervals(tx, instance_id)

    assert acked == 2
    assert [one.ended_at - one.started_at for one in counted if one.ended_at] == [HOUR]
    assert len(counted) == 1


async def test_a_machine_cannot_charge_the_renters_of_others(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 1)
        stray = edge(market, instance_id + 1, Meter.RUN, Edge.START, 1, timedelta(0))
        future = edge(market, instance_id, Meter.RUN, Edge.START, 1, -1000 * HOUR)
        await post(market, stray, future)
        async with market.context.engine.begin() as tx:
            none = await billing.intervals(tx, instance_id + 1)
            [counted] = await billing.intervals(tx, instance_id)

    assert none == ()
    assert counted.started_at <= market.context.clock.now() + billing.SKEW


async def test_pages_come_to_an_end(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ids = [await used(market, hours=1) for _ in range(3)]
        renter = market.client(market.renter)
        window = ("-s", "2025-12-30", "-e", "2026-01-02", "-l", "2")
        first = await renter.json("show", "invoices-v1", "-c", *window)
        second = await renter.json("show", "invoices-v1", "-c", *window, "-t", first["next_token"])
        latest = await renter.json("show", "invoices-v1", "-c", *window, "--latest-first")
        wrong = await market.renter.call("GET", "/api/v0/charges/?after_token=x")

    assert [row["source"] for page in (first, second) for row in page["results"]] == [f"instance-{one}" for one in ids]
    assert second["next_token"] is None
    assert latest["results"][0]["source"] == f"instance-{ids[-1]}"
    assert wrong.status == 400


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ('/api/v0/charges/?select_filters={"day":{"gte":"soon"}}', "gte"),
        ('/api/v0/charges/?select_filters={"day":5}', "time"),
        ('/api/v0/charges/?select_filters={"type":{"in":["toll"]}}', "type"),
        ("/api/v0/charges/?limit=1000", "limit"),
        ("/api/v0/users/me/machine-earnings?sday=1&eday=20000", "earnings"),
        ("/api/v0/users/me/machine-earnings?sday=nan&eday=20000", "sday"),
        ("/api/v0/users/me/invoices?sdate=x", "sdate"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path, path: str, named: str) -> None:
    async with rented_market(tmp_path) as market:
        answer = await market.host.call("GET", path)

    assert answer.status == 400, answer.body
    assert named in answer.body["msg"]


async def test_an_owner_pays_nothing_on_his_own_machine(tmp_path: Path) -> None:
    """Neither for an instance nor for a volume, running or ended; and he earns nothing by it."""
    async with rented_market(tmp_path) as market:
        own = replace(market, renter=market.host)
        instance_id = await used(own)
        await kept(own)
        host = market.client(market.host)
        user = await host.json("show", "user")
        earned = await host.json("show", "earnings", "-s", "2026-01-01", "-e", "2026-01-01")
        shown = await host.json("show", "invoices-v1", "-c", "-s", "2025-12-30", "-e", "2026-01-02")
        prepaid = await market.host.call("PUT", f"/api/v0/instances/prepay/{instance_id}/", {"amount": 5})

    assert user["credit"] == 1000
    assert earned["current"]["total"] == earned["summary"]["total_gpu"] == earned["summary"]["total_stor"] == 0
    assert {row["source"]: row["amount"] for row in shown["results"]} == {"instance-1": 0, "volume-1": 0}
    assert (prepaid.status, prepaid.body["error"]) == (400, "not_reservable")
