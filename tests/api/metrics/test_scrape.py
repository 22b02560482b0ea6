"""What a scrape tells: all that is defined, by rules of Prometheus, and nothing of a renter's but numbers."""

import asyncio
import http.client
import json
import re
import socket
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from kaalia.api.context import Context
from kaalia.api.metrics.catalogue import GROUPS
from kaalia.api.metrics.conditions import CODES_MAX
from kaalia.client import LocalClient, LocalError
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.pulse import PULSE, Pulse
from kaalia.store import conditions, local_contracts, machine
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.api.conftest import Local, serving
from tests.support.builders import build_contract, build_report
from tests.support.clock import START, FakeClock
from tests.support.crowd import FIRST, build_crowded_report, container_id, crowd

KNOWN = {metric.name: metric for _, metrics in GROUPS for metric in metrics}
GPUS = build_report(gpus=8).gpus


async def scraped(local: Local, contract_id: int | None = None) -> list[Sample]:
    text = await asyncio.to_thread(local.client.metrics, contract_id)
    return [sample for family in parse(text) for sample in family.samples]


def values(samples: list[Sample], name: str, **labels: str) -> list[float]:
    return [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]


async def test_a_fresh_daemon_tells_of_itself(local: Local) -> None:
    found = await scraped(local)

    assert values(found, "kaalia_build_info", version="0.1.0") == [1]
    assert values(found, "kaalia_marketplace_enrolled") == [0]
    assert values(found, "kaalia_daemon_safe_mode") == [0]
    assert values(found, "kaalia_daemon_state_bytes")[0] > 4096
    assert values(found, "process_resident_memory_bytes")[0] > 1_000_000
    assert not values(found, "kaalia_machine_gpus")


async def test_a_crowded_machine_tells_all_that_is_defined(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))
    with PULSE.turn("report"):
        PULSE.woke(0.001)

    found = await scraped(local)

    told = {one.name for one in found}
    assert told - KNOWN.keys() == set()
    assert KNOWN.keys() - told == {"kaalia_marketplace_heard_timestamp_seconds"}
    assert values(found, "kaalia_gpu_power_watts", gpu=GPUS[3].uuid) == [312.5]
    assert values(found, "kaalia_gpu_utilization_ratio", gpu=GPUS[0].uuid) == [0.97]
    assert values(found, "kaalia_gpu_memory_bytes", gpu=GPUS[0].uuid) == [24564 * 2**20]
    assert values(found, "kaalia_gpu_contract_info", gpu=GPUS[2].uuid, contract="53") == [1]
    assert values(found, "kaalia_contract_state", contract="51", state="running") == [1]
    assert values(found, "kaalia_contract_internet_bytes_total", contract="51", direction="down") == [255_000]
    assert values(found, "kaalia_contract_cpu_cores", contract="60") == [6]
    assert values(found, "kaalia_gpu_pcie_replays_total", gpu=GPUS[4].uuid) == [9]
    assert values(found, "kaalia_driver_state", state="ok") == [1]
    assert values(found, "kaalia_contract_energy_joules_total", contract="53") == [4000]
    assert values(found, "kaalia_gpu_energy_joules_total", gpu=GPUS[4].uuid) == [0.015]
    assert values(found, "kaalia_outages", cause="net") == [1]
    assert values(found, "kaalia_outage_seconds", cause="net") == [600]
    assert values(found, "kaalia_outage_seconds", cause="docker") == [120]
    assert [one.labels["cause"] for one in found if one.name == "kaalia_outage_open" and one.value] == ["docker"]
    assert values(found, "kaalia_silence_seconds") == [600]
    assert values(found, "kaalia_reliability_ratio", by="marketplace") == [0.97]
    assert values(found, "kaalia_reliability_ratio", by="machine") == [pytest.approx(1 - 600 / 2_592_000)]
    assert values(found, "kaalia_driver_state", state="hung") == [0]
    assert [one.value for one in found if one.name == "kaalia_gpu_fit"] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert values(found, "kaalia_machine_fit") == [1]
    assert values(found, "kaalia_contract_cpu_seconds_total", contract="53") == [26.5]
    assert values(found, "kaalia_contract_memory_bytes", contract="53") == [53 * 2**20]
    assert len(values(found, "kaalia_contract_memory_bytes")) == 8
    assert values(found, "kaalia_machine_gpus_claimed") == [8]
    assert values(found, "kaalia_machine_line_speed_bytes_per_second", direction="down") == [117_500_000]
    assert values(found, "kaalia_condition", condition="gpu_xid_48", gpu=GPUS[1].uuid, severity="critical") == [1]
    assert values(found, "kaalia_condition_since_timestamp_seconds", contract="52") == [START.timestamp()]
    assert values(found, "kaalia_conditions", severity="critical") == [2]
    assert values(found, "kaalia_conditions_ended_total") == [1]
    assert values(found, "kaalia_kernel_faults_total", fault="gpu_xid_48") == [3]
    assert values(found, "kaalia_machine_drained") == [1]
    assert values(found, "kaalia_outbox_oldest_timestamp_seconds") == [START.timestamp()]


async def test_labels_are_those_that_are_defined(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))

    wrong = [one for one in await scraped(local) if set(one.labels) != set(KNOWN[one.name].labels)]

    assert not wrong


async def test_nothing_of_a_renter_is_told_but_numbers(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))

    text = await asyncio.to_thread(local.client.metrics)

    for secret in (
        "hush-hush",
        "busybox",
        "secretive",
        "CONTAINER_API_KEY",
        container_id(51),
        "203.0.113.7",
        "192.168.1.20",
        "python",
    ):
        assert secret not in text, secret


async def test_the_content_type_is_that_of_the_text_format(local: Local) -> None:
    status, content_type, _ = await asyncio.to_thread(fetch, local.socket, "/metrics")

    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")


async def test_what_a_gpu_does_not_tell_is_absent(local: Local) -> None:
    await local.database.transaction(lambda tx: machine.put_report(tx, build_report(gpus=1)))

    found = await scraped(local)

    assert values(found, "kaalia_gpu_temperature_celsius") == [41]
    assert not values(found, "kaalia_gpu_power_watts")
    assert not values(found, "kaalia_gpu_processes")


async def test_names_that_outsiders_choose_make_no_series(local: Local) -> None:
    def many(code: str) -> list[Condition]:
        problem = Problem(code, "cannot")
        return [Condition(problem, Severity.WARN, "soon", scope=f"container x{number}") for number in range(300)]

    await local.database.transaction(lambda tx: conditions.replace(tx, "audit", many("foreign_gpu_user"), START))
    codes = [Condition(Problem(f"gpu_xid_{n}", "cannot"), Severity.WARN, "soon") for n in range(2 * CODES_MAX)]
    worst = Condition(Problem("state_disk_full", "cannot"), Severity.CRITICAL, "soon")
    await local.database.transaction(lambda tx: conditions.replace(tx, "kernel", [*codes, worst], START))

    found = await scraped(local)

    assert values(found, "kaalia_condition", scope="other") == [300]
    assert values(found, "kaalia_condition", condition="state_disk_full") == [1], "the worst come first"
    assert len(values(found, "kaalia_condition")) == CODES_MAX
    assert values(found, "kaalia_conditions", severity="warn") == [300 + 2 * CODES_MAX]


@pytest.mark.parametrize("contract_id", [FIRST, FIRST + 1, FIRST + 7])
async def test_a_tenant_sees_his_own_only(local: Local, contract_id: int) -> None:
    await local.database.transaction(partial(crowd, at=START))
    gpu = GPUS[contract_id - FIRST].uuid

    found = await scraped(local, contract_id)

    assert values(found, "kaalia_gpu_power_watts") == [312.5]
    assert values(found, "kaalia_contract_disk_used_bytes") == [2_000_000_000]
    for one in found:
        assert KNOWN[one.name].is_tenants
        assert one.labels.get("contract") == str(contract_id) or (
            not one.labels.get("contract") and one.labels["gpu"] == gpu
        )


async def test_a_tenant_sees_no_reading_from_before_his_time(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))
    await local.database.transaction(
        lambda tx: machine.put_report(tx, build_crowded_report(START - timedelta(seconds=1), 8))
    )

    found = await scraped(local, FIRST)

    assert values(found, "kaalia_gpu_contract_info", gpu=GPUS[0].uuid) == [1]
    assert not values(found, "kaalia_gpu_power_watts")


async def test_without_a_gpu_a_tenant_sees_none(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))

    found = await scraped(local, FIRST + 20)

    assert values(found, "kaalia_contract_state", state="stopped") == [1]
    assert not [one for one in found if "gpu" in one.labels]


async def test_an_unknown_contract_is_refused(local: Local) -> None:
    with pytest.raises(LocalError) as caught:
        await asyncio.to_thread(local.client.metrics, 99)
    assert caught.value.code == "no_such_contract"

    for wrong in ("", "x", "-1", "5 1", "9" * 19, "%D9%A1"):
        status, _, body = await asyncio.to_thread(fetch, local.socket, f"/metrics?contract={wrong.replace(' ', '%20')}")
        assert (status, json.loads(body)["error"]["code"]) == (400, "contract_invalid")


async def test_many_scrapes_at_once_are_all_answered(local: Local) -> None:
    await local.database.transaction(partial(crowd, at=START))

    async with aiohttp.ClientSession("http://kaalia", connector=aiohttp.UnixConnector(str(local.socket))) as session:

        async def ask() -> str:
            async with session.get("/metrics") as reply:
                return await reply.text()

        found = await asyncio.gather(*(ask() for _ in range(12)))

    assert {text.count("\nkaalia_contract_info{") for text in found} == {50}


async def test_safe_mode_is_told(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "s"
    why = Problem("state_corrupt", "cannot use the state")
    context = Context(Database(tmp_path / "state.db", Changes()), clock, clock.now(), safe_mode=why)

    async with serving(path, context):
        text = await asyncio.to_thread(LocalClient(path).metrics)

        assert "\nkaalia_daemon_safe_mode 1.0\n" in text
        assert not re.search("^kaalia_(gpu|contract|machine)", text, re.MULTILINE)
        with pytest.raises(LocalError) as caught:
            await asyncio.to_thread(LocalClient(path).metrics, 51)
        assert caught.value.code == "state_corrupt"


def test_the_library_is_not_imported_before_the_first_scrape() -> None:
    program = "import sys, kaalia.daemon.build; print('prometheus_client' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "False"


async def test_turns_are_counted() -> None:
    pulse = Pulse()
    with pulse.turn("report"):
        await asyncio.sleep(0)
    with pytest.raises(OSError, match="no"), pulse.turn("report"):
        raise OSError("no")
    with pytest.raises(asyncio.CancelledError), pulse.turn("report"):
        raise asyncio.CancelledError
    pulse.woke(0.2)
    pulse.woke(-0.1)

    turns = pulse.turns["report"]
    assert (turns.done, turns.failed) == (3, 1)
    assert 0 < turns.longest_s <= turns.total_s
    assert (pulse.lag.looks, pulse.lag.late, pulse.lag.last_s, pulse.lag.longest_s) == (2, 1, 0, 0.2)


def fetch(path: Path, url: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("kaalia", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", url)
    reply = connection.getresponse()
    found = reply.status, reply.headers["Content-Type"], reply.read().decode()
    connection.close()
    return found


async def test_the_machines_own_tests_are_no_contracts_of_renters(local: Local, store: Database) -> None:
    wanted = [build_contract().spec]

    (number,) = await store.transaction(
        lambda tx: local_contracts.make(tx, "canary", wanted, START, timedelta(minutes=10))
    )

    assert not [one for one in await scraped(local) if one.labels.get("contract") == str(number)]
