"""What machines measured: searched with the real client, and shown on offers."""

from pathlib import Path

import pytest

from kaalia.model.selftest import StepName
from tests.marketplace.support import Market
from tests.marketplace.verifying import beat, open_machine, open_verified, prove
from tests.support.sound import notice, sound_report, whole_run

pytestmark = pytest.mark.usefixtures("database")


async def dlperf(market: Market) -> set[float]:
    return {offer["dlperf"] / offer["num_gpus"] for offer in await market.search()}


async def test_the_real_client_finds_what_a_test_measured(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        renter = liar.market.client(liar.market.renter)
        rows = await renter.json("search", "benchmarks")
        fast = await renter.json("search", "benchmarks", "type=matrix_tflops value>100 gpu_name=RTX_4090")
        slow = await renter.json("search", "benchmarks", "type=matrix_tflops value<100")
        recent = await renter.json("search", "benchmarks", "last_update>01/01/2026 machine_id=1")
        table = await renter.run("search", "benchmarks", "type in [dlperf,disk_read_mbps]")
        page = await renter.json("search", "benchmarks", "--limit", "1")
        rest = await renter.json("search", "benchmarks", "--limit", "100", "--next-token", page["next_token"])

    assert {row["type"] for row in rows} == {"device_bandwidth_gbps", "disk_read_mbps", "dlperf", "matrix_tflops"}
    assert [(row["value"], row["num_gpus"], row["gpu_name"]) for row in fast] == [(150.5, 2, "RTX 4090")]
    assert slow == []
    assert len(recent) == 4
    assert table.returncode == 0, table.stderr
    assert "RTX_4090" in table.stdout or "RTX 4090" in table.stdout
    assert "3000.00" in table.stdout
    assert page["benchmarks_found"] == 1
    assert len(rest["benchmarks"]) == 3
    assert page["benchmarks"][0]["id"] not in {row["id"] for row in rest["benchmarks"]}


async def test_offers_show_dlperf_as_it_was_measured_and_never_more_than_the_model_can_do(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        reckoned = await dlperf(liar.market)
        await prove(liar)
        measured = await dlperf(liar.market)
        run = whole_run(liar.market.clock.now(), 2)
        await beat(liar, selftests=(notice(run).replace("816.0", "81600.0").replace("920.0", "92000.0"),))
        boasted = await dlperf(liar.market)

    assert reckoned == {23.0}
    assert measured == {20.7}
    assert boasted == {25.3}


async def test_a_test_that_failed_measured_nothing(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        await prove(liar, failed=StepName.BURN)
        found = await liar.market.renter.call("GET", "/api/v0/benchmarks")
        await prove(liar, 2)
        await prove(liar, 3)
        again = await liar.market.renter.call("GET", "/api/v0/benchmarks?select_cols=[%22type%22]&limit=2")
        wrong = await liar.market.renter.call("GET", "/api/v0/benchmarks?limit=201")
        odd = await liar.market.renter.call("GET", '/api/v0/benchmarks?order_by=[{"col":"value","dir":"down"}]')
        order = '[{"col":"value","dir":"desc"}]'
        sorted_rows = await liar.market.renter.call("GET", f"/api/v0/benchmarks?order_by={order}")
        stranger = await liar.market.anyone.call("GET", "/api/v0/benchmarks")

    assert found.body["benchmarks"] == []
    assert again.body["benchmarks_found"] == 4
    assert again.body["benchmarks"] == [{"type": "device_bandwidth_gbps"}, {"type": "disk_read_mbps"}]
    assert (wrong.status, odd.status, stranger.status) == (400, 400, 401)
    values = [row["value"] for row in sorted_rows.body["benchmarks"]]
    assert values == sorted(values, reverse=True)


async def test_a_machine_without_gpus_has_figures_and_no_score(tmp_path: Path) -> None:
    async with open_machine(tmp_path, sound_report(gpus=0)) as liar:
        await prove(liar)
        found = await liar.market.renter.call("GET", "/api/v0/benchmarks")

    assert "dlperf" not in {row["type"] for row in found.body["benchmarks"]}
    assert {row["gpu_name"] for row in found.body["benchmarks"]} == {None}
