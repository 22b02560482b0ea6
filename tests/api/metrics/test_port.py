"""The port for Prometheus: only metrics are there, promtool has no complaint, and a real Prometheus reads them."""

import asyncio
import contextlib
import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from kaalia.api.metrics.port import MetricsPortService
from kaalia.api.metrics.scrape import Scraper
from kaalia.pulse import PULSE
from kaalia.store import conditions
from tests.api.conftest import Local
from tests.support.clock import START
from tests.support.crowd import crowd
from tests.support.dashboard import load, questions
from tests.support.free_range import free_range
from tests.support.prometheus import program, prometheus

LOOPBACK = "127.0.0.1"
NEED_TIME = ("rate(", "increase(", "kaalia_marketplace_heard")
"""What takes two scrapes, or a marketplace."""


@contextlib.asynccontextmanager
async def serving(local: Local, port: int) -> AsyncIterator[str]:
    service = MetricsPortService(LOOPBACK, port, Scraper(local.context), local.clock, local.database)
    task = asyncio.ensure_future(service.run())
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def answered(url: str) -> str:
    """As soon as somebody listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                status, body = await asyncio.to_thread(get, f"{url}/metrics")
            except OSError:
                await asyncio.sleep(0.02)
                continue
            assert status == 200, body
            return body


async def open_codes(local: Local) -> list[str]:
    return [one.condition.problem.code for one in await local.database.read(conditions.all_open)]


async def test_nothing_but_metrics_is_served(local: Local) -> None:
    async with serving(local, free_range(1).first) as url:
        assert "kaalia_build_info" in await answered(url)

        for path in ("/v1/status", "/v1/contracts", "/v1/drain", "/"):
            status, body = await asyncio.to_thread(get, url + path)
            assert (status, json.loads(body)["error"]["code"]) == (404, "no_such_path")


async def test_a_port_in_use_is_told_and_tried_again(local: Local) -> None:
    port = free_range(1).first
    taken = socket.create_server((LOOPBACK, port))
    async with serving(local, port) as url, asyncio.timeout(60):
        while await open_codes(local) != ["metrics_port_unusable"]:
            await asyncio.sleep(0.02)
        taken.close()
        await answered(url)
        while await open_codes(local):
            await asyncio.sleep(0.02)


async def test_promtool_finds_nothing_to_complain_of(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))
    with PULSE.turn("report"):
        PULSE.woke(0.001)
    text = await asyncio.to_thread(local.client.metrics)

    done = await asyncio.to_thread(
        partial(
            subprocess.run,
            [program("promtool"), "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_real_prometheus_reads_them(local: Local, tmp_path: Path) -> None:
    await local.database.transaction(partial(crowd, at=START))
    with PULSE.turn("report"):
        PULSE.woke(0.001)
    async with serving(local, free_range(1).first) as url:
        await answered(url)

        def ask() -> None:
            with prometheus(tmp_path, url.removeprefix("http://")) as server:
                power = server.query("sum by (gpu) (kaalia_gpu_power_watts)")
                assert len(power) == 8
                assert {one["value"][1] for one in power} == {"312.5"}
                named = server.query("kaalia_gpu_power_watts * on (gpu) group_left (name, index) kaalia_gpu_info")
                assert {one["metric"]["index"] for one in named} == {str(index) for index in range(8)}
                assert len(server.query("kaalia_contract_info")) == 50
                for one in questions(load()):
                    answer = server.query(one.expression.replace("$instance", ".+"))
                    assert answer or any(word in one.expression for word in NEED_TIME), one
                (duration,) = server.query("scrape_duration_seconds")
                assert 0 < float(duration["value"][1]) < 10

        await asyncio.to_thread(ask)
