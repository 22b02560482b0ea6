"""The disk keeps its promises: quota, data after the instance, crashes at every point, offline deletes, bytes by `du`.

Each round makes a volume with the daemon killed at one crash point on the way, fills it beyond its size from inside a
container, compares the ledger with `du`, and deletes it with the daemon killed at a point of the removal. Then many
instances come and go, the kernel's counts are spoilt as removals may spoil them, and the next instance must still be
held to its size, in its own files and at a VOLUME path of its image.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from kaalia.reconciler.crash import VARIABLE, VOLUME_POINTS
from tests.proofs.report import Report, Say
from tests.support import btrfs
from tests.support.images import rootfs
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

MAKING = [point for point in VOLUME_POINTS if ".make." in point]
REMOVING = [point for point in VOLUME_POINTS if ".remove." in point]
REMOVALS = 10
VOLUME_IMAGE = "kaalia/demo:volume"
SLACK_BYTES = 32 * 1000**2
"""What file systems keep for themselves in 1 GB."""
FILL = "dd if=/dev/zero of=/data/big bs=1M count=1200; cat /data/big | wc -c; echo filled; sleep 999"


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every crash point of making with one of removing; `seed` picks nothing: the points are all visited."""
    report = Report(say)
    with scene(gpus="1xRTX_4090") as (stack, image):
        listed = ("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", "-v", "3")
        report.check("the volume offer is listed", stack.host.json(*listed)["success"])
        pairs = list(zip(MAKING, REMOVING, strict=True))
        for making, removing in pairs[: rounds or len(pairs)]:
            number = make(stack, making, report)
            use(stack, image, number, report)
            end(stack, number, removing, report)
            report.counts["rounds"] += 1
            say(f"volume {number}: killed at {making} and at {removing}, made, filled, removed")
        come_and_go(stack, image, report)
        hold_volume_path(stack, report)
    return report


def make(stack: Stack, point: str, report: Report) -> int:
    """A volume whose making is cut by a crash, and finished by the next daemon."""
    stack.kill_daemon()
    stack.start_daemon(**{VARIABLE: point})
    wait_until("the machine to be back", lambda: space(stack) == 3.0, 60, 0.2)
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={stack.machine_id}")
    name = point.replace(".", "_")
    number = int(stack.renter.json("create", "volume", str(offer["id"]), "-s", "1", "-n", name)["volume_id"])
    died(stack, report, point)
    stack.start_daemon()
    wait_until("the volume to be ready", lambda: status(stack, number) == "ready", 60, 0.2)
    report.check("the offer shrinks by what is rented", space(stack) == 2.0, space(stack))
    return number


def use(stack: Stack, image: str, number: int, report: Report) -> None:
    """Fill it beyond its size, compare with `du`, take the instance away: the data stay."""
    body: dict[str, Any] = {"image": image, "disk": 1, "runtype": "args", "env": {f"-v V.{number}:/data": "1"}}
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    instance = stack.rent(offer, **body, onstart="sh", args=["-c", FILL])
    stack.wait_status(instance, "running")

    def filled() -> str | None:
        text = stack.renter.run("logs", str(instance)).stdout
        return text if "filled" in text else None

    said = wait_until("the volume to be full", filled, 90, 0.5)
    report.check("a write beyond the size ends with no space", "No space" in said or "quota" in said.lower(), said)
    refused = stack.renter.run("delete", "volume", str(number))
    report.check("an attached volume is not deleted", "mounts it" in refused.stdout + refused.stderr, refused.stdout)
    ledger = json.loads(stack.kaalia("disk", "--socket", str(stack.socket), "--json").stdout)
    entry = next((one for one in ledger["entries"] if one["name"] == f"V.{number}"), {"size_bytes": 0})
    data = Path(ledger["volume_folder"]) / f"V.{number}"
    real = int(subprocess.run(["du", "-sB1", data], check=True, capture_output=True, text=True).stdout.split()[0])
    report.check("the ledger agrees with du", abs(entry["size_bytes"] - real) < SLACK_BYTES, (entry, real))
    report.worst("ledger_off_bytes", abs(entry["size_bytes"] - real))
    stack.destroy(instance)
    kept = (data / "data" / "big").stat().st_size
    report.check("the data outlive the instance", kept > 900 * 1000**2, kept)


def end(stack: Stack, number: int, point: str, report: Report) -> None:
    """Deleted while the machine is away; the removal is cut by a crash, and finished by the next daemon."""
    stack.kill_daemon()
    done = stack.renter.run("delete", "volume", str(number))
    report.check("a volume is deleted while its machine is away", "Deleted" in done.stdout, done.stdout + done.stderr)
    stack.start_daemon(**{VARIABLE: point})
    died(stack, report, point)
    stack.start_daemon()
    wait_until("the space to be free", lambda: space(stack) == 3.0, 60, 0.2)
    shown = json.loads(stack.kaalia("disk", "--socket", str(stack.socket), "--json").stdout)
    left = [one["name"] for one in shown["entries"] if one["owner"] in ("volume", "orphan")]
    report.check("nothing of it is left", not left and not list(Path(shown["volume_folder"]).glob("V.*")), left)


def come_and_go(stack: Stack, image: str, report: Report) -> None:
    """Sized instances are made and removed, the counts are spoilt, and the next one is still held to its size."""
    for _ in range(REMOVALS):
        instance, _ = fill_instance(stack, image, "dd if=/dev/zero of=/some bs=1M count=20; echo filled; sleep 999")
        stack.destroy(instance)
        report.counts["removals"] += 1
    root = Path(stack.engine.request("GET", "/info")["DockerRootDir"])
    btrfs.spoil_counts(root)
    btrfs.clear_away(root)
    report.check("the counts are spoilt", btrfs.is_inconsistent(root))
    instance, said = fill_instance(stack, image, "dd if=/dev/zero of=/big bs=1M count=1200; echo filled; sleep 999")
    report.check("after many removals a write beyond the size ends with no space", is_full(said), said)
    report.check("the counts are mended", not btrfs.is_inconsistent(root))
    stack.destroy(instance)


def hold_volume_path(stack: Stack, report: Report) -> None:
    """What is written to a VOLUME path of the image is the instance's, in size and in its end."""
    stack.engine.import_image(VOLUME_IMAGE, rootfs({"data/seed": b"seeded"}), ["ENV PATH=/bin", "VOLUME /data"])
    fill = "cat /data/seed; dd if=/dev/zero of=/data/big bs=1M count=1200; echo filled; sleep 999"
    instance, said = fill_instance(stack, VOLUME_IMAGE, fill)
    report.check("a VOLUME path begins with what the image holds there", "seeded" in said, said)
    report.check("a write beyond the size to a VOLUME path ends with no space", is_full(said), said)
    stack.destroy(instance)
    volumes = stack.engine.request("GET", "/volumes")["Volumes"]
    report.check("no volume without a name is left", not volumes, volumes)
    left = [one["Id"] for one in stack.engine.request("GET", "/images/json?all=1") if not one["RepoTags"]]
    report.check("no twin of an image is left", not left, left)


def fill_instance(stack: Stack, image: str, command: str) -> tuple[int, str]:
    """An instance of 1 GB that runs `command`; what it said until `filled`."""
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    instance = stack.rent(offer, image=image, disk=1, runtype="args", onstart="sh", args=["-c", command])
    stack.wait_status(instance, "running")

    def filled() -> str | None:
        text = stack.renter.run("logs", str(instance)).stdout
        return text if "filled" in text else None

    return instance, wait_until("the instance to have written", filled, 90, 0.5)


def is_full(said: str) -> bool:
    return "no space" in said.lower() or "quota exceeded" in said.lower()


def died(stack: Stack, report: Report, point: str) -> None:
    process = stack.daemon
    deadline_s = time.monotonic() + 60
    while process is not None and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    report.check(f"the daemon died at {point}", process is not None and process.poll() is not None)
    report.counts["daemon_kills"] += 1
    stack.kill_daemon()


def status(stack: Stack, number: int) -> str | None:
    rows = stack.renter_api.get("/api/v0/volumes?owner=me&type=all_volume") or {}
    return next((row["status"] for row in rows.get("volumes", []) if row["id"] == number), None)


def space(stack: Stack) -> float:
    _, body = stack.renter_api.call("POST", "/api/v0/volumes/search/", {"machine_id": {"eq": stack.machine_id}})
    return float(body["offers"][0]["disk_space"]) if body["offers"] else 0.0
