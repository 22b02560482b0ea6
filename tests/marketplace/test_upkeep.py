"""Defragmenting machines, reports of renters, and what `list machine` refuses."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.contracts import slicing
from kaalia.marketplace.db import tables
from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import hear_of, rent, rented_market, revision_of, say
from tests.marketplace.support import Market, add_machine, open_market
from tests.support.machines import machine_report


async def defrag(market: Market, *machine_ids: Any) -> Any:
    body = {"machine_ids": list(machine_ids)}
    return await market.host.call("PUT", "/api/v0/machines/defrag_offers/", body)


async def test_defrag_says_which_sizes_are_on_offer(tmp_path: Path) -> None:
    async with rented_market(tmp_path, machine_report(gpus=4)) as market:
        empty = (await defrag(market, 1)).body["machines"]
        for gpu in (0, 2):
            number = await rent(market)
            await say(market, number, WorkloadState.RUNNING, gpu_uuids=(f"GPU-{gpu:08d}",))
        [row] = (await defrag(market, 1)).body["machines"]
        await say(market, number, WorkloadState.STOPPED, gpu_uuids=("GPU-00000002",))
        await market.renter.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
        [stopped] = (await defrag(market, 1)).body["machines"]

    assert [(one["free_gpus"], one["offers_after"], one["largest_block"]) for one in empty] == [
        (4, {"1": 4, "2": 2, "4": 1}, 4)
    ]
    assert (row["free_gpus"], row["offers_before"], row["offers_after"]) == (2, {"1": 2, "2": 1}, {"1": 2, "2": 1})
    assert (row["largest_block"], row["msg"]) == (1, "the largest offer spans GPUs that are no neighbours")
    assert (stopped["free_gpus"], stopped["offers_after"], stopped["largest_block"]) == (3, {"1": 3, "2": 1}, 3)


async def test_defrag_makes_rows_that_are_missing(tmp_path: Path) -> None:
    """As after a machine came back with GPUs that could not be read before."""
    async with rented_market(tmp_path, machine_report(gpus=2)) as market:
        async with market.context.engine.begin() as tx:
            await tx.execute(sa.delete(tables.asks))
        [row] = (await defrag(market, 1)).body["machines"]
        offers = await market.search()

    assert (row["offers_before"], row["offers_after"]) == ({}, {"1": 2, "2": 1})
    assert len(offers) == 3


async def test_defrag_of_a_foreign_machine_changes_nothing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        for more in ((), (1,)):
            answer = await defrag(market, *more, 77)
            assert (answer.status, answer.body["error"]) == (404, "no_such_machine")
        for number in ("x", -1, None):
            assert (await defrag(market, number)).status == 400
        printed = await market.client(market.host).run("defrag", "machines", "1")
        foreign = await market.client(market.renter).run("defrag", "machines", "1")

    assert "'machines': [{'machine_id': 1" in printed.stdout, printed.stdout + printed.stderr
    assert "Error: 404" in foreign.stdout, foreign.stdout + foreign.stderr


def test_the_largest_block_ends_at_a_busy_gpu_and_at_a_domain() -> None:
    gpus = machine_report(gpus=8).gpus
    assert slicing.largest_block(gpus, set()) == 8
    assert slicing.largest_block(gpus, {gpus[2].uuid}) == 5
    assert slicing.largest_block(gpus, {gpu.uuid for gpu in gpus}) == 0
    assert slicing.largest_block((), set()) == 0


REPORTS = "/api/v0/machines/1/reports/"


async def report(market: Market, **body: Any) -> Any:
    return await market.renter.call("POST", REPORTS, {"problem": "slow disk", "message": "10 MB/s", **body})


async def test_a_renter_reports_and_the_owner_reads(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await rent(market)
        first = await report(market)
        market.clock.advance(1)
        await report(market, problem="no GPU", message=" nvidia-smi: no devices ")
        rows = (await market.host.call("GET", REPORTS, {"machine_id": 1})).body
        [machine] = (await market.host.call("GET", "/api/v0/machines")).body["machines"]
        printed = await market.client(market.host).run("reports", "1")
        foreign = await market.client(market.renter).run("reports", "1")
        now = market.clock.now().timestamp()

    assert first.body["success"] is True
    assert [row["problem"] for row in rows] == ["no GPU", "slow disk"]
    assert rows[0] == {"problem": "no GPU", "message": "nvidia-smi: no devices", "created_at": now}
    assert machine["num_reports"] == 2
    assert '"problem": "no GPU"' in printed.stdout, printed.stderr
    assert "cannot find machine 1" in foreign.stderr


async def test_reports_of_others_of_too_many_and_of_nothing_are_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        stranger = await report(market)
        await rent(market)
        bad = [await report(market, **body) for body in ({"problem": ""}, {"message": 7}, {"problem": "x" * 81})]
        own = await market.host.call("POST", REPORTS, {"problem": "p", "message": "m"})
        taken = [(await report(market)).status for _ in range(6)]
        market.clock.advance(86401)
        await hear_of(market)
        tomorrow = await report(market)

    assert (stranger.status, stranger.body["error"]) == (404, "no_such_machine")
    assert [(one.status, one.body["error"]) for one in bad] == [(400, "invalid_args")] * 3
    assert own.status == 404
    assert taken == [200] * 5 + [429]
    assert tomorrow.status == 200


async def test_who_rented_long_ago_reports_no_more(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/")
        market.clock.advance(6 * 86400)
        late = await report(market)
        market.clock.advance(2 * 86400)
        too_late = await report(market)

    assert late.status == 200
    assert (too_late.status, too_late.body["error"]) == (404, "no_such_machine")


async def test_of_one_renter_the_newest_reports_are_kept(tmp_path: Path) -> None:
    """So that nobody fills the table, and nobody crowds out what others wrote."""
    async with rented_market(tmp_path) as market:
        await rent(market)
        for number in range(30):
            await report(market, problem=f"problem {number}")
            market.clock.advance(86400 / 4)
        rows = (await market.host.call("GET", REPORTS)).body

    assert [row["problem"] for row in rows] == [f"problem {number}" for number in range(29, 9, -1)]


@pytest.mark.usefixtures("database")
async def test_what_moves_a_cursor_or_no_database_takes_is_left_out_of_a_report(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await rent(market)
        taken = await report(market, problem="\x1b[2Jslow\x00", message="line\nline\u202e \u00e9")
        half = await report(market, message="\ud800")
        nothing = await report(market, problem="\x00\u200b")
        rows = (await market.host.call("GET", REPORTS)).body

    assert (taken.status, nothing.status, half.status) == (200, 400, 400)
    assert [(row["problem"], row["message"]) for row in rows] == [("[2Jslow", "line\nline \u00e9")]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"min_chunk": 3}, "min_chunk"),
        ({"min_chunk": 16}, "min_chunk"),
        ({"min_chunk": 0}, "min_chunk"),
        ({"end_date": 1000}, "end_date"),
        ({"end_date": 1798675200, "duration": "10 days"}, "duration"),
        ({"duration": "soon"}, "duration"),
        ({"duration": 0}, "duration"),
        ({"price_gpu": -0.1}, "price_gpu"),
        ({"price_gpu": "much"}, "price_gpu"),
        ({"price_disk": -1}, "price_disk"),
        ({"price_inetu": -1}, "price_inetu"),
        ({"price_inetd": 1e9}, "price_inetd"),
        ({"price_min_bid": -1}, "price_min_bid"),
        ({"credit_discount_max": 2}, "credit_discount_max"),
        ({"vol_size": -1}, "vol_size"),
        ({"vol_size": 0, "vol_price": 1}, "vol_price"),
    ],
    ids=str,
)
async def test_bad_terms_name_the_field_and_change_nothing(tmp_path: Path, body: dict[str, Any], named: str) -> None:
    async with rented_market(tmp_path) as market:
        await rent(market)
        before = (await market.host.call("GET", "/api/v0/machines")).body
        revision = await revision_of(market)
        answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", {"machine": 1, "price_gpu": 9, **body})
        after = (await market.host.call("GET", "/api/v0/machines")).body

        assert (answer.status, answer.body["error"]) == (400, "invalid_args")
        assert answer.body["msg"].startswith("cannot "), answer.body
        assert named in answer.body["msg"]
        assert ". " in answer.body["msg"], "no remedy"
        assert after == before
        assert await revision_of(market) == revision
        assert (await market.renter.call("GET", "/api/v0/instances/pending-price-increases/")).body["count"] == 0


@pytest.mark.parametrize(
    ("machine", "status", "code"),
    [
        (77, 404, "no_such_machine"),
        ("x", 400, "invalid_args"),
        (None, 400, "invalid_args"),
        (2, 404, "no_such_machine"),
    ],
)
async def test_unknown_and_foreign_machines_are_not_listed(
    tmp_path: Path, machine: Any, status: int, code: str
) -> None:
    async with open_market(tmp_path) as market:
        await add_machine(market.context)
        await add_machine(market.context, owner="renter")
        answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", {"machine": machine, "price_gpu": 1})
        assert (answer.status, answer.body["error"]) == (status, code)
        assert await market.search() == []


async def test_the_client_prints_how_many_contracts_were_extended(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        host = market.client(market.host)
        terms = ("-g", "0.4", "-b", "0.1")
        await host.run("list", "machine", "1", *terms, "-e", "06/01/2026")
        await rent(market)
        await rent(market)
        same = await host.run("list", "machine", "1", *terms, "-e", "06/01/2026")
        later = await host.run("list", "machine", "1", *terms, "-e", "07/01/2026")

    assert "extended" not in same.stdout
    assert "extended 2 client contracts to 07/01/2026" in later.stdout, later.stderr
