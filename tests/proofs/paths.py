"""A hostile instance tries to lead those who work among its files for the renter out of it: by `..`, absolute paths,
chains of links, links of /proc, devices, pipes, strange names, its volume, and a link that is swapped meanwhile.

Against `vastai execute` and `vastai copy` on the instance while it runs and while it is stopped, and copies of its
volume, with the storage drivers overlay2 and btrfs. Witnesses outside are compared before and after; none of their
secrets may be said. A control counts how many of the paths do lead out where nothing is confined.
"""

import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from tests.proofs.path_targets import REFUSED, Execute, Rsync, Target
from tests.proofs.report import Report, Say
from tests.support import hostile
from tests.support.hostile import Outside
from tests.support.scene import scene
from tests.support.ssh import new_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

IMAGE = "kaalia/hostile:latest"
PATHS = 230
SWAPS = 6
"""How often each walk is tried."""
AT_ONCE = 3
PATIENCE_S = {"execute": 9.0, "copy C": 30.0, "copy V": 30.0}
SCRIPT = "{fill}; mkdir -p /swap/kept; touch /swap/kept/a /swap/kept/b; echo ready; {then}"
SWAP = (
    "ln -s {folder} /swap/evil; mkdir /swap/x; touch /swap/x/{named}; "
    "while :; do mv /swap/x /swap/y; mv /swap/evil /swap/x; mv /swap/x /swap/evil; mv /swap/y /swap/x; done"
)


def prove(seed: int, rounds: int, say: Say) -> Report:
    """All of it with each storage driver; `rounds` limits how many of those."""
    report = Report(say)
    for has_quota in (False, True)[: rounds or 2]:
        with (
            tempfile.TemporaryDirectory(prefix="kaalia-outside-") as folder,
            scene(gpus="2xRTX_4090", has_quota=has_quota) as (stack, _),
        ):
            driver = str(stack.engine.request("GET", "/info")["Driver"])
            attack(stack, Path(folder), report, seed, driver)
    return report


def attack(stack: Stack, folder: Path, report: Report, seed: int, driver: str) -> None:
    stack.host.json("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", "-v", "3")
    data_root = str(stack.engine.request("GET", "/info")["DockerRootDir"])
    state = stack.folder / "state"
    outside = Outside(folder / "w", more=(state / "identity.pem", Path("/etc/passwd"), Path("/etc/hostname")))
    outside.make()
    places = {"docker": data_root, "state": str(state), "socket": str(stack.engine.socket), "tmp": "/tmp"}
    pids = [1, stack.daemon.pid if stack.daemon else 1]
    tar = hostile.image(outside, places, Path("/").stat().st_dev)
    stack.engine.import_image(IMAGE, tar, ["ENV PATH=/bin"])
    paths = hostile.paths(outside, places, pids, seed, PATHS)
    control(tar, [path for _, path in paths], folder / "naive", report)
    before = outside.state()
    key, public = new_key(folder)
    stack.renter.run("create", "ssh-key", public)
    volume = make_volume(stack)
    instance = rent(stack, volume, outside, "sleep 9999")
    of_volume = Rsync(stack, f"V.{volume}", key, hostile.VOLUME)
    for state_name in ("running", "stopped"):
        if state_name == "stopped":
            stack.renter.run("stop", "instance", str(instance))
            wait_until("it to be stopped", lambda: stack.local_state(instance) == "stopped", 30)
        began = time.monotonic()
        strike([*targets(stack, instance, key), of_volume], paths, outside, report, state_name)
        compare(before, outside, report, f"{driver}, {state_name}")
        stack_counts = f"{report.counts['escapes']} tries, {len(report.violations)} violations"
        report.say(f"{driver}, {state_name}: {stack_counts}, {time.monotonic() - began:.0f} s")
    swap(stack, outside, report, key)
    compare(before, outside, report, f"{driver}, a link swapped meanwhile")
    report.say(f"{driver}, a link swapped meanwhile: {len(report.violations)} violations")


def targets(stack: Stack, instance_id: int, key: Path) -> list[Target]:
    return [Execute(stack, instance_id), Rsync(stack, f"C.{instance_id}", key)]


def strike(
    found: Iterable[Target], paths: Sequence[tuple[str, str]], outside: Outside, report: Report, state: str
) -> None:
    def tries() -> Iterator[tuple[Target, str, str, Callable[[], str]]]:
        for target in found:
            for kind, path in paths:
                yield from ((target, kind, path, one) for one in target.attacks(path, outside))

    def strike_once(one: tuple[Target, str, str, Callable[[], str]]) -> None:
        target, kind, path, act = one
        began = time.monotonic()
        text = act()
        seconds = time.monotonic() - began
        report.worst(f"slowest_{target.name}_s", seconds)
        report.counts[f"escapes by {target.name}"] += 1
        report.counts["escapes"] += 1
        report.counts[f"escapes by {kind}"] += 1
        report.counts[f"escapes on {state}"] += 1
        judge(report, f"{target.name}, {state}, {kind} {path!r}", text, outside)
        report.check(f"{target.name}, {state}, {path!r} is in time", seconds < PATIENCE_S[target.name], seconds)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(strike_once, tries()))


def judge(report: Report, what: str, text: str, outside: Outside) -> None:
    """Nothing outside was seen, and it was a try at all."""
    is_clean = outside.secret not in text and "state.db" not in text
    report.check(f"{what} tells nothing of the outside", is_clean, text[-300:])
    report.check(f"{what} is answered", not text.startswith(REFUSED), text[:300])


def compare(before: dict[str, tuple[object, ...]], outside: Outside, report: Report, when: str) -> None:
    after = outside.state()
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    report.counts["witnesses"] += len(after)
    report.check(f"no witness changed: {when}", not changed, changed)


def control(tar: bytes, paths: Sequence[str], root: Path, report: Report) -> None:
    """The same paths below a folder, for somebody who confines nothing."""
    root.mkdir()
    with tarfile.open(fileobj=BytesIO(tar), errors="surrogateescape") as archive:
        kept = [one for one in archive.getmembers() if one.issym() or one.isdir()]
        archive.extractall(root, kept, filter="fully_trusted")
    count = sum(hostile.leads_out(root, path) for path in paths)
    report.counts["paths"] += len(paths)
    report.counts["paths that lead out unconfined"] += count
    report.check("the paths are hostile at all", count > len(paths) // 2, count)
    subprocess.run(["rm", "-rf", str(root)], check=True)


def swap(stack: Stack, outside: Outside, report: Report, key: Path) -> None:
    """A folder that becomes a link to the outside and back, while it is walked."""
    loop = SWAP.format(folder=outside.folder, named=outside.named)
    instance = rent(stack, None, outside, loop)
    walks = [walk for target in targets(stack, instance, key) for walk in target.walks("/swap", outside)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for text in pool.map(lambda walk: walk(), walks * SWAPS):
            report.counts["escapes"] += 1
            report.counts["escapes by a swap"] += 1
            judge(report, "a link swapped meanwhile", text, outside)


def make_volume(stack: Stack) -> int:
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={stack.machine_id}")
    number = int(stack.renter.json("create", "volume", str(offer["id"]), "-s", "1")["volume_id"])

    def is_ready() -> bool:
        rows = (stack.renter_api.get("/api/v0/volumes?owner=me&type=all_volume") or {}).get("volumes", [])
        return any(row["id"] == number and row["status"] == "ready" for row in rows)

    wait_until("the volume to be ready", is_ready, 60, 0.2)
    return number


def rent(stack: Stack, volume: int | None, outside: Outside, then: str) -> int:
    """An instance of the hostile image, once its script is where it waits."""
    env = {} if volume is None else {f"-v V.{volume}:{hostile.VOLUME}": "1"}
    script = SCRIPT.format(fill=hostile.fill_volume(outside), then=then)
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    number = stack.rent(offer, image=IMAGE, disk=1, runtype="args", env=env, args=["sh", "-c", script])
    stack.wait_status(number, "running")
    wait_until("its script", lambda: "ready" in stack.renter.run("logs", str(number)).stdout, 30, 0.5)
    return number
