from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.offer import Listing
from kaalia.contracts.pricing import Price
from kaalia.errors import Problem
from kaalia.model.workload import (
    LaunchMode,
    NotMade,
    PortBinding,
    Protocol,
    WorkloadSpec,
    WorkloadState,
    WorkloadStatus,
)
from kaalia.wire import contract as wire
from tests.support.machines import machine_report

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SPEC = WorkloadSpec(image="ubuntu:22.04", launch_mode=LaunchMode.SSH, disk_bytes=40_000_000_000, gpu_count=2)
CONTRACT = Contract(
    contract_id=7001,
    generation=1,
    kind=ContractKind.ON_DEMAND,
    desired=Desired.RUNNING,
    spec=SPEC,
    price_usd_per_hour=Decimal("0.8"),
    start_at=NOW,
)
WORDS = {
    "running",
    "stopped",
    "created",
    "loading",
    "exited",
    "rebooting",
    "recycling",
    "stopping",
    "offline",
    "unknown",
}


def status(state: WorkloadState, **changes: Any) -> WorkloadStatus:
    return WorkloadStatus(contract_id=7001, generation=1, state=state, as_of=NOW, **changes)


def instance(**changes: Any) -> wire.Instance:
    row = wire.Instance(
        contract=CONTRACT,
        status=None,
        request={"runtype": "ssh", "env": [["A", "B"]]},
        label=None,
        template_id=None,
        template_hash_id=None,
        template_name=None,
        jupyter_token="token",
        ask_id=501,
        machine_id=77,
        host_id=3,
        report=machine_report(gpus=8),
        online=True,
        reliability=0.99,
        verification="unverified",
        terms=Listing(Decimal("0.4"), price_inet_up_per_gb=Decimal("0.01")),
        price=Price(Decimal("0.8"), Decimal("0.005"), Decimal("0.805")),
    )
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("seen", "desired", "expected"),
    [
        (None, Desired.RUNNING, ("running", None, "unloaded", "running")),
        (status(WorkloadState.WAITING), Desired.RUNNING, ("running", None, "unloaded", "running")),
        (status(WorkloadState.WAITING, started_at=NOW), Desired.RUNNING, ("running", "stopped", "stopped", "running")),
        (status(WorkloadState.PULLING), Desired.RUNNING, ("running", "loading", "running", "running")),
        (status(WorkloadState.CREATING), Desired.RUNNING, ("running", "created", "running", "running")),
        (status(WorkloadState.STARTING), Desired.RUNNING, ("running", "loading", "running", "running")),
        (status(WorkloadState.RUNNING), Desired.RUNNING, ("running", "running", "running", "running")),
        (status(WorkloadState.RUNNING), Desired.STOPPED, ("stopped", "running", "running", "stopped")),
        (status(WorkloadState.STOPPING), Desired.STOPPED, ("stopped", "stopping", "running", "stopped")),
        (status(WorkloadState.STOPPED), Desired.STOPPED, ("stopped", "stopped", "stopped", "stopped")),
        (status(WorkloadState.STOPPED), Desired.RUNNING, ("running", "stopped", "stopped", "running")),
        (status(WorkloadState.EXITED), Desired.RUNNING, ("running", "exited", "running", "running")),
        (status(WorkloadState.FAILED), Desired.RUNNING, ("running", "exited", "unloaded", "running")),
        (status(WorkloadState.REJECTED), Desired.RUNNING, ("running", "exited", "unloaded", "running")),
        (status(WorkloadState.UNKNOWN), Desired.RUNNING, ("running", "unknown", "running", "running")),
    ],
)
def test_states_as_clients_poll_for_them(
    seen: WorkloadStatus | None, desired: Desired, expected: tuple[str, str | None, str, str]
) -> None:
    states = wire.states(replace(CONTRACT, desired=desired), seen, True, NOW)

    assert (states.intended, states.actual, states.current, states.following) == expected


@pytest.mark.parametrize("state", list(WorkloadState))
@pytest.mark.parametrize("desired", [Desired.RUNNING, Desired.STOPPED])
def test_every_state_has_words_and_silence_changes_only_one(state: WorkloadState, desired: Desired) -> None:
    contract = replace(CONTRACT, desired=desired)

    heard = wire.states(contract, status(state), True, NOW)
    silent = wire.states(contract, status(state), False, NOW)

    assert heard.actual is None or heard.actual in WORDS
    assert {heard.current, heard.following} <= {"running", "stopped", "unloaded"}
    assert silent == replace(heard, actual="offline")


def test_an_expired_contract_is_meant_to_be_stopped() -> None:
    expired = replace(CONTRACT, end_at=NOW - timedelta(seconds=1))

    states = wire.states(expired, status(WorkloadState.RUNNING), True, NOW)

    assert (states.intended, states.actual, states.following) == ("stopped", "running", "stopped")


@pytest.mark.parametrize(
    ("state", "done", "actual"),
    [
        (WorkloadState.RUNNING, 0, "rebooting"),
        (WorkloadState.STOPPING, 0, "rebooting"),
        (WorkloadState.RUNNING, 1, "running"),
        (WorkloadState.EXITED, 0, "exited"),
    ],
)
def test_a_reboot_shows_until_it_is_done(state: WorkloadState, done: int, actual: str) -> None:
    contract = replace(CONTRACT, restart_count=1)

    assert wire.states(contract, status(state, restarts_done=done), True, NOW).actual == actual


@pytest.mark.parametrize(
    ("state", "generation", "failed", "actual"),
    [
        (WorkloadState.RUNNING, 1, None, "recycling"),
        (WorkloadState.REMOVING, 1, None, "recycling"),
        (WorkloadState.EXITED, 1, None, "recycling"),
        (WorkloadState.STOPPED, 1, None, "stopped"),
        (WorkloadState.CREATING, 2, None, "created"),
        (WorkloadState.RUNNING, 1, 2, "running"),
        (WorkloadState.RUNNING, 2, None, "running"),
    ],
)
def test_a_recycle_shows_until_it_is_done_or_given_up(
    state: WorkloadState, generation: int, failed: int | None, actual: str
) -> None:
    told = None if failed is None else NotMade(failed, Problem("image_not_found", "cannot pull it"))
    row = replace(status(state, not_made=told), generation=generation)

    assert wire.states(replace(CONTRACT, generation=2), row, True, NOW).actual == actual


def test_hard_needs_of_the_client_hold_in_every_state() -> None:
    for state in (None, *WorkloadState):
        row = wire.encode(instance(status=None if state is None else status(state)), NOW)

        assert isinstance(row["start_date"], float)
        assert row["extra_env"] == [["A", "B"]]
        assert isinstance(row["ports"], dict)
        assert isinstance(row["image_runtype"], str)
        assert isinstance(row["status_msg"], str)
        assert (row["ssh_host"] is None) == (row["ssh_port"] is None)


def test_without_a_public_address_there_is_no_ssh_address() -> None:
    report = machine_report(gpus=1)
    hidden = replace(report, network=replace(report.network, public_ip=None))
    ports = (PortBinding(22, 22, 40022, Protocol.TCP),)

    row = wire.encode(instance(report=hidden, status=status(WorkloadState.RUNNING, ports=ports)), NOW)

    assert (row["ssh_host"], row["ssh_port"], row["public_ipaddr"]) == (None, None, None)


def test_money_and_times_are_numbers() -> None:
    ends = replace(CONTRACT, end_at=NOW + timedelta(days=2))

    row = wire.encode(instance(contract=ends), NOW)

    assert (row["dph_base"], row["storage_total_cost"], row["dph_total"]) == (0.8, 0.005, 0.805)
    assert row["search"] == row["instance"]
    assert row["search"]["totalHour"] == 0.805
    assert (row["inet_up_cost"], row["internet_up_cost_per_tb"]) == (0.01, 10.0)
    assert (row["end_date"], row["duration"]) == ((NOW + timedelta(days=2)).timestamp(), 172800.0)
    assert row["min_bid"] == 0.8
    assert (row["disk_space"], row["gpu_frac"]) == (40.0, 0.25)


def test_a_machine_without_gpus_is_whole() -> None:
    bare = replace(CONTRACT, spec=replace(SPEC, gpu_count=0))

    row = wire.encode(instance(contract=bare, report=machine_report(gpus=0)), NOW)

    assert (row["num_gpus"], row["gpu_frac"], row["gpu_name"], row["gpu_totalram"]) == (0, 1.0, None, 0)
