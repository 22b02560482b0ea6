"""The stand-in for NVIDIA's hook: called as runc calls it, and by Docker's own `--gpus`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import HOOK, Hook, install_hook
from tests.support.images import DEMO_IMAGE


def prestart(hook: Hook, bundle: Path, container_id: str, env: list[str]) -> "subprocess.CompletedProcess[str]":
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps({"process": {"env": env}}))
    state = {"ociVersion": "1.0.2", "id": container_id, "status": "creating", "pid": 4711, "bundle": str(bundle)}
    return subprocess.run(
        [hook.folder / HOOK, "prestart"], input=json.dumps(state), capture_output=True, text=True, check=False
    )


def test_records_each_container(tmp_path: Path) -> None:
    hook = install_hook(tmp_path / "hook")

    first = prestart(hook, tmp_path / "a", "aaa", ["NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2", "A=B=C"])
    second = prestart(
        hook, tmp_path / "b", "bbb", ["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    )

    assert (first.returncode, second.returncode, first.stderr) == (0, 0, "")
    seen = hook.containers()
    assert (seen["aaa"]["visible_devices"], seen["aaa"]["driver_capabilities"]) == ("GPU-1,GPU-2", None)
    assert (seen["bbb"]["visible_devices"], seen["bbb"]["driver_capabilities"]) == ("void", "compute,utility")
    assert seen["aaa"]["nvidia_env"] == ["NVIDIA_VISIBLE_DEVICES"]
    assert (seen["bbb"]["stage"], seen["bbb"]["pid"], seen["bbb"]["bundle"]) == ("prestart", 4711, str(tmp_path / "b"))


def test_the_last_value_of_a_variable_counts(tmp_path: Path) -> None:
    hook = install_hook(tmp_path / "hook")

    prestart(hook, tmp_path / "a", "aaa", ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=GPU-7"])

    assert hook.containers()["aaa"]["visible_devices"] == "GPU-7"


def test_fails_and_behaves_when_told(tmp_path: Path) -> None:
    hook = install_hook(tmp_path / "hook")

    hook.fail("nvidia-container-cli: device error: GPU-1: unknown device")
    failed = prestart(hook, tmp_path / "a", "aaa", [])
    hook.behave()
    healed = prestart(hook, tmp_path / "a", "aaa", [])

    assert (failed.returncode, failed.stderr) == (1, "nvidia-container-cli: device error: GPU-1: unknown device\n")
    assert healed.returncode == 0


def test_no_container_is_no_record(tmp_path: Path) -> None:
    assert install_hook(tmp_path / "hook").containers() == {}


def start(engine: PrivateDocker, request: dict[str, Any] | None, env: list[str]) -> str:
    host_config = {"DeviceRequests": [request]} if request else {}
    body = {"Image": DEMO_IMAGE, "Cmd": ["true"], "Env": env, "HostConfig": host_config}
    container_id = str(engine.request("POST", "/containers/create", body)["Id"])
    engine.request("POST", f"/containers/{container_id}/start")
    return container_id


@pytest.mark.docker
def test_docker_asks_for_the_gpus_of_a_device_request(docker_host: PrivateDocker, gpu_hook: Hook) -> None:
    request = {"DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu", "compute", "utility"]]}

    container_id = start(docker_host, request, ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"])

    entry = gpu_hook.containers()[container_id]
    assert entry["visible_devices"] == "GPU-a,GPU-b"
    assert set(entry["driver_capabilities"].split(",")) == {"compute", "utility"}
    docker_host.remove_containers()


@pytest.mark.docker
def test_docker_passes_a_failing_hook_on(docker_host: PrivateDocker, gpu_hook: Hook) -> None:
    gpu_hook.fail("nvidia-container-cli: device error")
    try:
        with pytest.raises(RuntimeError, match="nvidia-container-cli: device error"):
            start(docker_host, {"Count": -1, "Capabilities": [["gpu"]]}, [])
    finally:
        gpu_hook.behave()
        docker_host.remove_containers()


@pytest.mark.docker
def test_docker_without_device_request_calls_no_hook(docker_host: PrivateDocker, gpu_hook: Hook) -> None:
    container_id = start(docker_host, None, ["NVIDIA_VISIBLE_DEVICES=void"])

    assert container_id not in gpu_hook.containers()
    docker_host.remove_containers()
