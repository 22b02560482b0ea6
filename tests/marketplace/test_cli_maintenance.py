"""Maintenance with the real client: it asks before it sends, and shows nothing of an answer but a refusal."""

import asyncio
from pathlib import Path
from subprocess import CompletedProcess

from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import rent, rented_market, say
from tests.marketplace.support import Api, Market
from tests.support.clock import START
from tests.support.vastai import VastAI

START_S = int(START.timestamp()) + 86400


async def confirmed(market: Market, by: Api, *args: str) -> CompletedProcess[str]:
    program = VastAI(market.url, by.key or "", market.folder / "home")
    return await asyncio.to_thread(lambda: program.run(*args, stdin="y\n"))


async def schedule(market: Market, *more: str, by: Api | None = None) -> CompletedProcess[str]:
    argv = ("schedule", "maint", "1", "--sdate", str(START_S), "--duration", "1.5", *more)
    return await confirmed(market, by or market.host, *argv)


async def test_schedule_show_and_cancel(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        host = market.client(market.host)
        none = await host.json("show", "maints", "--ids", "1")
        done = await schedule(market, "--maintenance_category", "power")
        rows = await host.json("show", "maints", "--ids", "1")
        table = await host.run("show", "maints", "--ids", "1")
        machine = await host.run("show", "machines")
        cancelled = await confirmed(market, market.host, "cancel", "maint", "1")
        left = await host.json("show", "maints", "--ids", "1")

    assert (none, left) == ([], [])
    assert "Maintenance window scheduled for 2026-01-02 12:00:00" in done.stdout, done.stdout + done.stderr
    assert rows[0]["duration_hours"] == 1.5
    assert table.returncode == 0, table.stderr
    for word in ("2026-01-02/12:00", "2026-01-02/13:30", "1.5", "power"):
        assert word in table.stdout
    assert machine.returncode == 0, machine.stderr
    assert "machine 1 success" in cancelled.stdout, cancelled.stderr


async def test_a_renter_sees_the_window_in_every_view(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING, status_msg="success, running ubuntu:22.04/args")
        await schedule(market)
        renter = market.client(market.renter)
        rows = await renter.json("show", "instances")
        one = await renter.json("show", "instance", str(instance_id))
        table = await renter.run("show", "instances", "-v", "--cols", "id,status,machine,msg")

    for row in (rows[0], one):
        assert row["machine_maintenance"][0]["start_time"] == START_S
        assert row["status_msg"].startswith("maintenance from 2026-01-02 12:00 UTC to 2026-01-02 13:30 UTC")
    assert table.returncode == 0, table.stderr
    assert "maintenance from" in table.stdout


async def test_a_refusal_is_shown(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        foreign = await schedule(market, by=market.renter)
        wrong = await schedule(market, "--maintenance_category", "party")
        await schedule(market)
        twice = await confirmed(
            market, market.host, "schedule", "maint", "1", "--sdate", str(START_S + 600), "--duration", "1"
        )

    assert "cannot find machine 1" in foreign.stderr
    assert "maintenance_category='party' is unknown" in wrong.stderr
    assert "it overlaps the one from 2026-01-02 12:00 UTC" in twice.stderr
    for done in (foreign, wrong, twice):
        assert "success" not in done.stdout
