"""What may be asked when accepting an offer, field by field, through the served API."""

from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import Desired
from kaalia.model.workload import LaunchMode
from tests.marketplace.renting import accept, contract_of, rent, rented_market, revision_of, show


@pytest.mark.parametrize(
    ("body", "error", "named"),
    [
        ({"image": None}, "invalid_args", ["image"]),
        ({"image": "Not An Image"}, "invalid_args", ["Not An Image", "ubuntu:22.04"]),
        ({"image": "vastai/Base:@vastai-automatic-tag"}, "invalid_args", ["vastai/Base"]),
        ({"image": 5}, "invalid_args", ["image", "5"]),
        ({"price": 0}, "invalid_price", ["0.001", "128"]),
        ({"price": 128.5}, "invalid_price", ["128.5"]),
        ({"price": 0.05}, "invalid_price", ["0.05", "0.1"]),
        ({"disk": 0.5}, "invalid_args", ["0.5", "1 GB"]),
        ({"disk": 1001}, "invalid_args", ["1001", "1000"]),
        ({"disk": "big"}, "invalid_args", ["disk", "big"]),
        ({"label": "x" * 1025}, "label_too_long", ["1025", "1024"]),
        ({"onstart": "x" * 4049}, "invalid_args", ["4049", "4048", "gzip", "base64"]),
        ({"onstart": "echo hi; sleep 1", "runtype": "args"}, "invalid_args", ["onstart", "args"]),
        ({"runtype": "vnc"}, "invalid_args", ["vnc", "ssh_direct"]),
        ({"runtype": "args", "args_str": "bash -c 'x"}, "invalid_args", ["args_str"]),
        ({"target_state": "paused"}, "invalid_args", ["target_state", "paused"]),
        ({"env": "--privileged"}, "invalid_args", ["--privileged"]),
        ({"env": 5}, "invalid_args", ["env"]),
        ({"env": {"-p 99999999:1": "1"}}, "invalid_args", ["99999999"]),
        ({"env": {"-v V.901:data": "1"}}, "invalid_args", ["V.901:data", "absolute"]),
        ({"env": {"-v V.901:/": "1"}}, "invalid_args", ["hide the whole file system"]),
        ({"env": {"-n net1": "1"}}, "networks_unavailable", ["net1"]),
        (
            {"volume_info": {"create_new": True, "volume_id": 1, "mount_path": "d"}},
            "invalid_args",
            ["V.1:d", "absolute"],
        ),
        (
            {"volume_info": {"create_new": True, "volume_id": 1, "mount_path": "/"}},
            "invalid_args",
            ["whole file system"],
        ),
        ({"volume_info": {"create_new": True, "mount_path": "/d"}}, "invalid_args", ["volume_id"]),
        ({"vm": True}, "invalid_args", ["VM"]),
        ({"user": "root; rm"}, "invalid_args", ["user"]),
        ({"image_login": "-u bob docker.io"}, "invalid_args", ["image_login", "PASSWORD"]),
        ({"template_hash_id": "nope"}, "invalid_args", ["nope", "hash"]),
        ({"template_id": 77}, "invalid_args", ["77"]),
    ],
)
async def test_a_bad_request_names_field_value_and_remedy(
    tmp_path: Path, body: dict[str, Any], error: str, named: list[str]
) -> None:
    async with rented_market(tmp_path) as market:
        before = await revision_of(market)

        answer = await accept(market, 1, **body)

        assert (answer.status, answer.body["error"]) == (400, error), answer.body
        assert answer.body["success"] is False
        assert answer.body["ask_id"] == 1
        assert [word for word in named if word not in answer.body["msg"]] == []
        assert await revision_of(market) == before


async def test_a_refused_login_does_not_tell_the_password(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answer = await accept(market, 1, image_login="-p s3cret --what")

        assert answer.status == 400
        assert "s3cret" not in str(answer.body)


@pytest.mark.parametrize(
    ("body", "mode", "ports", "runtype"),
    [
        ({}, LaunchMode.SSH, [22], "ssh"),
        ({"runtype": "ssh_direc ssh_proxy"}, LaunchMode.SSH, [22], "ssh_direc ssh_proxy"),
        (
            {"runtype": "jupyter_direc ssh_direc ssh_proxy"},
            LaunchMode.JUPYTER,
            [22, 8080],
            "jupyter_direc ssh_direc ssh_proxy",
        ),
        ({"runtype": "jupyter"}, LaunchMode.JUPYTER, [22, 8080], "jupyter"),
        ({"args": ["-c", "ls"]}, LaunchMode.ARGS, [], "args"),
        ({"args_str": "bash -c 'a b'"}, LaunchMode.ARGS, [], "args"),
        ({"runtype": "ssh", "env": "-p 22:22 -p 80:80"}, LaunchMode.SSH, [22, 80], "ssh"),
    ],
)
async def test_run_types_choose_mode_and_ports(
    tmp_path: Path, body: dict[str, Any], mode: LaunchMode, ports: list[int], runtype: str
) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, **body)

        spec = (await contract_of(market, instance_id)).spec

        assert spec.launch_mode is mode
        assert [port.container_port for port in spec.ports] == ports
        assert (await show(market, instance_id))["image_runtype"] == runtype


async def test_args_and_entrypoint_as_the_client_sends_them(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, onstart="bash", runtype="args", args=["-c", "echo hello; sleep 9"])
        words = await rent(market, args_str="bash -c 'a b'")

        spec = (await contract_of(market, instance_id)).spec

        assert (spec.entrypoint, spec.args, spec.onstart) == ("bash", ("-c", "echo hello; sleep 9"), None)
        assert (await contract_of(market, words)).spec.args == ("bash", "-c", "a b")
        assert (await show(market, instance_id))["image_args"] == ["-c", "echo hello; sleep 9"]


async def test_64_ports_fit_only_without_the_launch_modes_own(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        env = {f"-p {port}:{port}": "1" for port in range(3000, 3064)}

        with_ssh = await accept(market, env=env)
        without = await accept(market, env=env, runtype="args")

        assert with_ssh.status == 400
        assert with_ssh.body["reason"] == "too_many_ports"
        assert without.status == 200


async def test_a_stopped_target_state_starts_nothing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, target_state="stopped")

        assert (await contract_of(market, instance_id)).desired is Desired.STOPPED
        assert (await show(market, instance_id))["intended_status"] == "stopped"
