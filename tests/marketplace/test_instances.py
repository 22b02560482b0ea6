import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from kaalia.contracts.contract import Desired
from kaalia.errors import Problem
from kaalia.marketplace import accounts
from kaalia.model.machine import GpuDriver
from kaalia.model.workload import PortBinding, Protocol, WorkloadState
from tests.marketplace.renting import (
    TERMS,
    accept,
    contract_of,
    hear_of,
    list_machine,
    rent,
    rented_market,
    revision_of,
    say,
    show,
)
from tests.marketplace.support import Answer, Market
from tests.support.machines import machine_report


async def v1(market: Market, **query: Any) -> Answer:
    """The v1 list with the values encoded as the client does."""
    encoded = {key: value if isinstance(value, str) else json.dumps(value) for key, value in query.items()}
    return await market.renter.call("GET", f"/api/v1/instances/?{urlencode(encoded, quote_via=quote)}")


async def test_a_fresh_row_never_crashes_the_client(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        row = await show(market, await rent(market))

        assert isinstance(row["start_date"], float)
        assert row["extra_env"] == []
        assert row["ports"] == {}
        assert row["image_runtype"] == "ssh"
        assert row["ssh_host"] is row["ssh_port"] is None
        assert row["actual_status"] is None
        assert (row["intended_status"], row["cur_state"], row["next_state"]) == ("running", "unloaded", "running")


async def test_ports_and_ssh_address_come_together(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, env={"-p 70000:70000": "1", "-p 8081:8081/udp": "1"})
        ports = (
            PortBinding(22, 22, 40022, Protocol.TCP),
            PortBinding(8081, 8081, 40023, Protocol.UDP),
            PortBinding(70000, 40024, 40024, Protocol.TCP),
        )

        await say(market, instance_id, WorkloadState.STARTING, ports=ports)
        starting = await show(market, instance_id)
        started_at = market.clock.now()
        await say(market, instance_id, WorkloadState.RUNNING, ports=ports, started_at=started_at)
        market.clock.advance(90)
        running = await show(market, instance_id)

        assert (starting["ports"], starting["ssh_host"], starting["ssh_port"]) == ({}, None, None)
        assert running["ports"] == {
            "22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}],
            "8081/udp": [{"HostIp": "0.0.0.0", "HostPort": "40023"}],
            "40024/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40024"}],
        }
        assert (running["ssh_host"], running["ssh_port"]) == ("203.0.113.7", 40022)
        assert running["uptime_mins"] == pytest.approx(1.5, abs=0.01)


async def test_the_row_shows_the_share_and_marks_simulated_gpus(tmp_path: Path) -> None:
    report = machine_report(gpus=8, driver=GpuDriver(version="550.54.15", cuda_version="12.4", simulated=True))
    async with rented_market(tmp_path, report) as market:
        instance_id = await rent(market, 2)

        row = await show(market, instance_id)
        plain = await v1(market, select_filters={"gpu_name": {"eq": "RTX 4090"}})
        marked = await v1(market, select_filters={"gpu_name": {"in": ["RTX 4090 (simulated)"]}})
        other = await v1(market, select_filters={"gpu_name": {"eq": "H100 SXM"}})

        assert (row["num_gpus"], row["gpu_frac"], row["cpu_cores_effective"]) == (2, 0.25, 16.0)
        assert row["gpu_totalram"] == 2 * 24564
        assert row["gpu_name"] == "RTX 4090 (simulated)"
        assert [answer.body["instances_found"] for answer in (plain, marked, other)] == [1, 1, 0]


async def test_a_silent_machine_is_offline_and_comes_back(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        market.clock.advance(200)
        silent = await show(market, instance_id)
        await hear_of(market)
        heard = await show(market, instance_id)

        assert (silent["actual_status"], silent["intended_status"], silent["cur_state"]) == (
            "offline",
            "running",
            "running",
        )
        assert "machine 1" in silent["status_msg"]
        assert heard["actual_status"] == "running"


async def test_a_failure_is_told_with_its_remedy(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        problem = Problem("image_not_found", "cannot pull nope:1: manifest unknown", "check the name")

        await say(market, instance_id, WorkloadState.FAILED, status_msg="pull gave up", problem=problem)

        row = await show(market, instance_id)
        assert row["actual_status"] == "exited"
        assert row["status_msg"] == "pull gave up. cannot pull nope:1: manifest unknown. check the name"


async def test_start_and_stop_set_the_wish_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        path = f"/api/v0/instances/{instance_id}/"
        before = await revision_of(market)

        stopped = await market.renter.call("PUT", path, {"state": "stopped"})
        again = await market.renter.call("PUT", path, {"state": "stopped"})

        assert stopped.body["success"] is again.body["success"] is True
        assert (await contract_of(market, instance_id)).desired is Desired.STOPPED
        assert await revision_of(market) == before + 1
        assert (await show(market, instance_id))["intended_status"] == "stopped"

        await market.renter.call("PUT", path, {"state": "running"})
        assert (await contract_of(market, instance_id)).desired is Desired.RUNNING


@pytest.mark.parametrize("state", [WorkloadState.EXITED, WorkloadState.FAILED])
async def test_starting_what_ended_by_itself_is_a_restart(tmp_path: Path, state: WorkloadState) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        path = f"/api/v0/instances/{instance_id}/"
        await say(market, instance_id, state)

        await market.renter.call("PUT", path, {"state": "running"})
        await market.renter.call("PUT", path, {"state": "running"})
        assert (await contract_of(market, instance_id)).restart_count == 1

        await say(market, instance_id, WorkloadState.RUNNING, restarts_done=1)
        await market.renter.call("PUT", path, {"state": "running"})
        assert (await contract_of(market, instance_id)).restart_count == 1


async def test_an_expired_contract_can_neither_start_nor_reboot(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        terms = type(TERMS)(TERMS.price_gpu_per_hour, rolling_duration_s=60.0)
        await list_machine(market.context, 1, terms)
        instance_id = await rent(market)
        market.clock.advance(61)

        before = await contract_of(market, instance_id)

        answer = await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "running"})
        rebooted = await market.renter.call("PUT", f"/api/v0/instances/reboot/{instance_id}/", {})
        row = await show(market, instance_id)

        assert (answer.status, answer.body["error"]) == (400, "contract_expired")
        assert (rebooted.status, rebooted.body["error"]) == (400, "contract_expired")
        assert rebooted.body["msg"].startswith(f"cannot reboot instance {instance_id}: its contract expired at 2026")
        assert await contract_of(market, instance_id) == before, "no reboot waits for an extension"
        assert (row["intended_status"], row["next_state"], row["duration"]) == ("stopped", "stopped", 0.0)


async def test_a_stopped_instance_gives_its_gpus_to_others(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        first = await rent(market, 8)
        await say(market, first, WorkloadState.RUNNING)
        await market.renter.call("PUT", f"/api/v0/instances/{first}/", {"state": "stopped"})
        still = await accept(market, label="too early")
        await say(market, first, WorkloadState.STOPPED)
        later = await accept(market, label="now")

        assert still.status == 410
        assert later.status == 200


async def test_every_reboot_counts_until_the_machine_has_done_it(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        path = f"/api/v0/instances/reboot/{instance_id}/"
        await say(market, instance_id, WorkloadState.RUNNING)
        seen = []

        await market.renter.call("PUT", path, {})
        await market.renter.call("PUT", path, {})
        for done in range(3):
            await say(market, instance_id, WorkloadState.RUNNING, restarts_done=done)
            seen.append((await show(market, instance_id))["actual_status"])

        assert seen == ["rebooting", "rebooting", "running"]
        assert (await contract_of(market, instance_id)).restart_count == 2


async def test_a_stopped_instance_cannot_reboot(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, target_state="stopped")

        answer = await market.renter.call("PUT", f"/api/v0/instances/reboot/{instance_id}/", {})

        assert (answer.status, answer.body["error"]) == (400, "not_running")
        assert "start" in answer.body["msg"]


async def test_labels_are_set_and_counted(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        first, second, third = [await rent(market, label=label) for label in ("a", "b", None)]
        await market.renter.call("PUT", f"/api/v0/instances/{second}/", {"label": "a"})
        too_long = await market.renter.call("PUT", f"/api/v0/instances/{first}/", {"label": "x" * 1025})
        number = await market.renter.call("PUT", f"/api/v0/instances/{first}/", {"label": 7})

        listed = await v1(market, select_filters={"label": {"in": ["a", None]}})
        unlabelled = await v1(market, select_filters={"label": {"in": [None]}})

        assert listed.body["label_counts"] == {"a": 2}
        assert listed.body["instances_found"] == 3
        assert [row["id"] for row in unlabelled.body["instances"]] == [third]
        assert (too_long.status, too_long.body["error"]) == (400, "label_too_long")
        assert number.status == 400


async def test_destroyed_instances_vanish_at_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        gone = await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        repeated = await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        start = await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "running"})

        assert gone.body["success"] is repeated.body["success"] is True
        assert await show(market, instance_id) is None
        assert (await v1(market)).body["instances"] == []
        assert (start.status, start.body["error"]) == (404, "no_such_instance")
        assert (await contract_of(market, instance_id)).desired is Desired.ENDED


async def test_many_are_changed_together_or_not_at_all(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ids = [await rent(market, label=str(number)) for number in range(3)]

        stopped = await market.renter.call("PUT", "/api/v0/instances/", {"state": "stopped", "ids": ids})
        foreign = await market.renter.call("DELETE", "/api/v0/instances/", {"instance_ids": [*ids, 4711]})
        too_many = await market.renter.call("DELETE", "/api/v0/instances/", {"instance_ids": list(range(65))})
        still = len((await v1(market)).body["instances"])
        destroyed = await market.renter.call("DELETE", "/api/v0/instances/", {"instance_ids": ids})

        assert stopped.body["success"] is destroyed.body["success"] is True
        assert [(await contract_of(market, instance_id)).desired for instance_id in ids] == [Desired.ENDED] * 3
        assert (foreign.status, foreign.body["error"], still) == (404, "no_such_instance", 3)
        assert "4711" in foreign.body["msg"]
        assert too_many.status == 400


async def test_others_cannot_see_or_touch_an_instance(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        stranger = market.anyone.using(await accounts.add_user(market.context.engine, "s", False, market.clock.now()))
        path = f"/api/v0/instances/{instance_id}/"

        refused = [
            await stranger.call("PUT", path, {"state": "stopped"}),
            await stranger.call("PUT", path, {"label": "mine"}),
            await stranger.call("PUT", f"/api/v0/instances/reboot/{instance_id}/", {}),
            await stranger.call("DELETE", path, {}),
            await stranger.call("PUT", f"/api/v0/instances/request_logs/{instance_id}/", {}),
            await market.host.call("DELETE", path, {}),
        ]

        assert [answer.status for answer in refused] == [404] * 6
        assert {answer.body["error"] for answer in refused} == {"no_such_instance", "invalid_id"}
        assert await show(market, instance_id, by=stranger) is None
        assert (await stranger.call("GET", "/api/v0/instances?owner=me")).body["instances"] == []
        assert (await show(market, instance_id))["intended_status"] == "running"


async def test_the_instance_key_opens_its_own_instance_only(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        made = await accept(market, label="own")
        own, other = made.body["new_contract"], await rent(market, label="other")
        inside = market.anyone.using(made.body["instance_api_key"])

        assert (await show(market, own, by=inside))["id"] == own
        assert (await inside.call("PUT", f"/api/v0/instances/{own}/", {"state": "stopped"})).status == 200
        assert (await inside.call("GET", f"/api/v0/instances/{other}/")).status == 403
        assert (await inside.call("PUT", f"/api/v0/instances/{other}/", {"state": "stopped"})).status == 403
        assert (await accept(market, by=inside)).status == 403
        assert (await inside.call("DELETE", f"/api/v0/instances/{own}/", {})).status == 200


@pytest.mark.parametrize(
    "body", [{}, {"state": "frozen"}, {"state": None}, {"state": ["running"]}, {"ids": [1], "state": "stopped"}]
)
async def test_a_bad_change_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        many = await market.renter.call("PUT", "/api/v0/instances/", {"ids": "1", **body} | {"ids": "x"})
        one = await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {**body, "state": "no"})

        assert (one.status, one.body["error"]) == (400, "invalid_args")
        assert many.status == 400


async def test_pages_end_and_hold_every_row_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ids = [await rent(market, label=f"n{number}") for number in range(7)]
        order = [{"col": "label", "dir": "desc"}]

        seen: list[int] = []
        token: dict[str, str] = {}
        for _ in range(10):
            body = (await v1(market, limit=3, order_by=order, **token)).body
            seen += [row["id"] for row in body["instances"]]
            if body["next_token"] is None:
                break
            token = {"after_token": body["next_token"]}

        assert seen == ids[::-1]
        assert body["total_instances"] == 7


async def test_a_page_goes_on_when_its_last_row_is_gone(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ids = [await rent(market, label=f"n{number}") for number in range(5)]
        first = (await v1(market, limit=2)).body
        await market.renter.call("DELETE", f"/api/v0/instances/{ids[1]}/", {})

        second = (await v1(market, limit=25, after_token=first["next_token"])).body

        assert [row["id"] for row in second["instances"]] == ids[2:]
        assert second["next_token"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 26},
        {"limit": "many"},
        {"after_token": "W10"},
        {"after_token": "!"},
        {"select_filters": [1]},
        {"select_filters": {"id": {"like": 1}}},
        {"order_by": [{"col": "id", "dir": "up"}]},
        {"order_by": [5]},
        {"select_cols": {"id": 1}},
    ],
)
async def test_a_bad_list_query_is_a_400(tmp_path: Path, query: dict[str, Any]) -> None:
    async with rented_market(tmp_path) as market:
        answer = await v1(market, **query)

        assert answer.status == 400, answer.body
        assert answer.body["msg"].startswith("cannot")


async def test_columns_are_selected_and_unknown_ones_null(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        body = (await v1(market, select_cols=["id", "nonsense"])).body

        assert body["instances"] == [{"id": instance_id, "nonsense": None}]


async def test_filter_values_are_offered(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        first, _, _ = [await rent(market, label=label) for label in "abc"]
        await say(market, first, WorkloadState.RUNNING)

        body = (await market.renter.call("GET", "/api/v0/instances/filters/")).body

        assert body["filters"] == [
            {"actual_status": "running", "gpu_name": "RTX 4090", "verification": "unverified"},
            {"actual_status": None, "gpu_name": "RTX 4090", "verification": "unverified"},
        ]
