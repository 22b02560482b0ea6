"""Disk end to end, by the real client: volumes outlive the instance, are shared on one machine; both have a quota."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


def create(stack: Stack, *flags: str, command: str) -> int:
    """An instance that runs `command`, then sleeps; its id once it runs."""
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 30)
    common = ("create", "instance", str(offer), "--image", DEMO_IMAGE, "--disk", "1", *flags, "--raw")
    done = stack.renter.run(*common, "--entrypoint", "sh", "--args", "-c", f"{command}; sleep 999")
    made = json.loads(done.stdout)
    stack.wait_status(made["new_contract"], "running")
    return int(made["new_contract"])


def volume(stack: Stack, volume_id: int) -> dict[str, Any]:
    rows = {row["id"]: row for row in stack.renter.json("show", "volumes")}
    return dict(rows[volume_id])


def output(stack: Stack, instance_id: int, until: str) -> str:
    """What the container wrote, once it holds `until`."""

    def look() -> str | None:
        text = stack.renter.run("logs", str(instance_id)).stdout
        return text if until in text else None

    return wait_until(f"{until!r} in the output of {instance_id}", look, 30)


def test_a_volume_lives_from_offer_to_deletion(stack: Stack, docker_host: PrivateDocker) -> None:
    machine = str(stack.machine_id)
    assert stack.host.json("list", "machine", machine, "--price_gpu", "0.4", "-v", "3", "-z", "0.2")["success"]
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={machine}")
    assert (offer["disk_space"], offer["storage_cost"]) == (3.0, 0.2)
    made = stack.renter.json("create", "volume", str(offer["id"]), "-s", "1", "-n", "lab")
    number = int(made["volume_id"])
    wait_until("the volume to be ready", lambda: volume(stack, number)["status"] == "ready", 30)
    assert volume(stack, number)["backend"] == "btrfs"

    first = create(stack, "--env", f"-v V.{number}:/data", command="echo kept > /data/file; echo written")
    output(stack, first, "written")
    refused = stack.renter.run("delete", "volume", str(number))
    assert f"instance {first} mounts it" in refused.stdout + refused.stderr
    destroy(stack, first)

    linked = ("--link-volume", str(number), "--mount-path", "/mine")
    second = create(stack, *linked, command="cat /mine/file; dd if=/dev/zero of=/mine/big bs=1M count=1200; echo end")
    said = output(stack, second, "end")
    assert "kept" in said
    assert "no space left" in said.lower() or "quota exceeded" in said.lower(), said
    third = create(stack, *linked, command="ls /mine; echo shared")
    assert "file" in output(stack, third, "shared")
    destroy(stack, second, third)

    gone = stack.renter.run("delete", "volume", str(number))
    assert "Deleted" in gone.stdout, gone.stdout + gone.stderr
    wait_until("the space to be free", lambda: space(stack) == 3.0, 30)
    folder = docker_host.data_root / "kaalia-volumes"
    assert not [path for path in folder.rglob("V.*")], "its data are gone"
    charged = stack.renter.json("show", "invoices-v1", "-c", "-ct", "volume")["results"]
    [row] = [one for one in charged if one["source"] == f"volume-{number}"]
    seconds = row["end"] - row["start"]
    assert 1 < seconds < 170
    assert row["amount"] == pytest.approx(0.2 * seconds / 3600 / 730, abs=1e-9)


def test_a_write_beyond_the_rented_size_fails_inside_the_instance(stack: Stack) -> None:
    number = create(stack, command="dd if=/dev/zero of=/big bs=1M count=1200; ls -l /big; echo ended")
    said = output(stack, number, "ended").lower()
    assert "no space left" in said or "quota exceeded" in said, said
    assert (stack.instance(number) or {})["actual_status"] == "running"
    destroy(stack, number)


def space(stack: Stack) -> float:
    rows = stack.renter.json("search", "volumes", f"verified=any machine_id={stack.machine_id}")
    return float(rows[0]["disk_space"]) if rows else 0.0


def test_an_instance_makes_its_own_volume(stack: Stack) -> None:
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={stack.machine_id}")
    flags = ("--create-volume", str(offer["id"]), "--volume-size", "1", "--mount-path", "/data")
    instance = create(stack, *flags, command="echo hello > /data/x && echo done")
    output(stack, instance, "done")
    (mounted,) = (stack.instance(instance) or {})["volume_info"]
    assert mounted["total_space"] == 1.0
    inspected = stack.engine.inspect(f"C.{instance}")["HostConfig"]["Mounts"]
    assert [mount["Target"] for mount in inspected] == ["/data"], json.dumps(inspected)
    destroy(stack, instance)
    stack.renter.run("delete", "volume", str(mounted["id"]))
    wait_until("the space to be free", lambda: space(stack) == 3.0, 30)


def test_a_delete_while_the_machine_is_away_is_done_when_it_is_back(stack: Stack, docker_host: PrivateDocker) -> None:
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={stack.machine_id}")
    number = int(stack.renter.json("create", "volume", str(offer["id"]), "-s", "1")["volume_id"])
    wait_until("the volume to be ready", lambda: volume(stack, number)["status"] == "ready", 30)
    stack.kill_daemon()

    assert "Deleted" in stack.renter.run("delete", "volume", str(number)).stdout
    again = stack.renter.run("delete", "volume", str(number))
    assert "no such volume of yours" in again.stdout + again.stderr
    folder = docker_host.data_root / "kaalia-volumes"
    assert list(folder.rglob(f"V.{number}")), "nothing was removed meanwhile"
    stack.start_daemon()

    wait_until("the data to go", lambda: not list(folder.rglob(f"V.{number}*")), 30)
    wait_until("the space to be free", lambda: space(stack) == 3.0, 30)


def test_orphans_are_shown_first_and_removed_on_demand(stack: Stack) -> None:
    told = json.loads(stack.kaalia("disk", "--socket", str(stack.socket), "--json").stdout)
    root = Path(told["volume_folder"])
    (root / "V.4711").mkdir()
    (root / "V.4711.key").write_text("whose?")
    command = ("disk", "orphans", "--socket", str(stack.socket), "--json")

    shown = json.loads(stack.kaalia(*command).stdout)
    assert [entry["name"] for entry in shown["orphans"]] == ["V.4711"]
    assert (root / "V.4711").exists(), "a dry run"
    done = json.loads(stack.kaalia(*command, "--remove").stdout)

    assert ([entry["name"] for entry in done["removed"]], done["orphans"]) == (["V.4711"], [])
    assert not list(root.glob("V.4711*"))
    ledger = stack.kaalia("disk", "--socket", str(stack.socket))
    assert "btrfs in" in ledger.stdout, ledger.stderr
    assert DEMO_IMAGE in ledger.stdout
