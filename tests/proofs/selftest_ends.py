"""However a self-test is broken off, it ends in bounded time, says so, and nothing of it stays: no container, no
process, no cgroup, no file on Docker's disk, no GPU that is held.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kaalia.capability import fio
from kaalia.errors import KaaliaError
from kaalia.model.selftest import StepName
from kaalia.runtime.container import jupyter_image
from kaalia.wire.ledger import Resource
from kaalia.wire.selftest_local import SelfTestWish
from tests.e2e.rented import SLEEP, destroy
from tests.proofs import deficits_host
from tests.proofs.deficiency import Found, World, failures, since
from tests.support.struck import process_of
from tests.support.waiting import wait_until

BEGINS_S = 90.0
ENDS_S = 40.0
GONE_S = 40.0
BURN = ("--quick", "--only", "burn", "--burn", "1")
LAUNCH = ("--only", "launch")


def check(world: World) -> None:
    """One after the other; after each nothing may be left that was not there before."""
    before = {what: frozenset(look(world)) for what, look in LEFT.items()}
    for name, end in (
        ("Ctrl-C", _interrupted),
        ("SIGTERM of the command", _terminated),
        ("kill -9 of the command", _command_killed),
        ("kill -9 of the daemon", _daemon_killed),
        ("kill -9 of the daemon while fio writes", _daemon_killed_in_fio),
        ("an end of the daemon", _daemon_stopped),
        ("Ctrl-C while Jupyter is tried", _notebook_interrupted),
        ("kill -9 of the daemon while Jupyter is tried", _notebook_killed),
        ("a renter who comes", _renter),
        ("a disk that is full", _full),
    ):
        began = time.monotonic()
        try:
            end(world)
        except TimeoutError as error:
            world.report.check(f"{name}: it comes to its end", False, error)
        _nothing_left(world, name, before)
        world.report.worst("slowest_end_s", since(began))
        world.report.say(f"{name}: nothing is left after {since(began)} s")
        world.report.counts["ends"] += 1


def _interrupted(world: World) -> None:
    _broken_off(world, signal.SIGINT)


def _terminated(world: World) -> None:
    _broken_off(world, signal.SIGTERM)


def _notebook_interrupted(world: World) -> None:
    _broken_off(world, signal.SIGINT, LAUNCH)


def _notebook_killed(world: World) -> None:
    with _begun(world, LAUNCH) as command:
        world.stack.kill_daemon(signal.SIGKILL)
        command.kill()
    world.stack.start_daemon()
    wait_until("the daemon to answer", lambda: _answers(world), 60)


def _broken_off(world: World, number: signal.Signals, options: tuple[str, ...] = BURN) -> None:
    with _begun(world, options) as command:
        command.send_signal(number)
        code = command.wait(ENDS_S)
    world.report.check(f"{number.name}: exit code 2", code == 2, code)
    world.report.check(f"{number.name}: it says so", _last(world) == "selftest_cancelled", _last(world))


def _command_killed(world: World) -> None:
    """The test goes on without it; the owner breaks it off."""
    with _begun(world) as command:
        command.kill()
    world.report.check("kill -9 of the command: the test goes on", process_of("burn") is not None)
    done = world.kaalia("self-test", "cancel")
    world.report.check("kill -9 of the command: it can be broken off", done.returncode == 0, done.stderr)


def _daemon_killed(world: World) -> None:
    _without_daemon(world, signal.SIGKILL)


def _daemon_stopped(world: World) -> None:
    _without_daemon(world, signal.SIGTERM)


def _without_daemon(world: World, number: signal.Signals) -> None:
    with _begun(world) as command:
        world.stack.kill_daemon(number)
        wait_until("its programs to end with it", lambda: process_of("burn") is None, ENDS_S)
        command.kill()
    world.stack.start_daemon()
    wait_until("the daemon to answer", lambda: _answers(world), 60)
    world.report.check(f"{number.name} of the daemon: it says so", _last(world) == "selftest_interrupted", _last(world))


def _daemon_killed_in_fio(world: World) -> None:
    """fio goes on without it: the next daemon ends it, and measures nothing for a test that is over."""
    folder = world.docker.data_root
    world.client().order_self_test(SelfTestWish(only=(StepName.DISK,)))
    wait_until("fio to write", lambda: fio.writers(folder) and (folder / fio.FILE).exists(), BEGINS_S)
    world.stack.kill_daemon(signal.SIGKILL)
    world.stack.start_daemon()
    wait_until("the daemon to answer", lambda: _answers(world), 60)
    world.report.check("in fio: it says so", _last(world) == "selftest_interrupted", _last(world))
    began = time.monotonic()
    wait_until("fio to be gone", lambda: not fio.writers(folder), GONE_S)
    world.report.worst("fio_outlives_s", since(began))
    ordered = world.client().report_details().ordered
    world.report.check("in fio: nothing is measured anew", not ordered, ordered)


def _renter(world: World) -> None:
    """Who rents in the middle of it gets the GPU."""
    world.stack.list_machine()
    with _begun(world) as command:
        offer = wait_until("an offer while the test runs", lambda: world.stack.rentable_offer(1), 60)
        began = time.monotonic()
        instance = world.stack.rent(offer, **SLEEP)
        code = command.wait(ENDS_S)
        world.report.worst("renter_waits_s", since(began))
    world.report.check("a renter who comes: exit code 2", code == 2, code)
    world.report.check("a renter who comes: it says so", _last(world) == "selftest_gave_way", _last(world))
    world.stack.wait_status(instance, "running")
    destroy(world.stack, instance)


def _full(world: World) -> None:
    """From before it begins; nothing can be launched or written, and it ends nevertheless."""
    with deficits_host.full_disk(world):
        code, found = world.test("--burn", "0.02")
    wrong = failures(found)
    world.report.check("a disk that is full: exit code 1 or 2", code in (1, 2), (code, found.get("problem")))
    told = any("disk" in one or "launch" in one for one in wrong) or code == 2
    world.report.check("a disk that is full: it says so", told, (wrong, found.get("problem")))
    counted = world.kaalia("disk")  # by itself half a minute later
    world.report.check("a disk that was full is counted anew", counted.returncode == 0, counted.stderr)


def _begun(world: World, options: tuple[str, ...] = BURN) -> subprocess.Popen[bytes]:
    """A test whose burn runs, or whose Jupyter is about to."""
    is_there = _burns if options is BURN else _images
    command = [sys.executable, "-m", "kaalia.cli.main", "self-test", "machine", "--json", *options]
    heard = world.profile.with_name("command.log")
    with heard.open("wb") as file:
        begun = subprocess.Popen([*command, "--socket", str(world.stack.socket)], stdout=file, stderr=file)

    def runs() -> bool:
        if begun.poll() is not None:
            raise TimeoutError(f"the test ended too soon: {heard.read_text()[-600:]}")
        return bool(is_there(world))

    wait_until("the test to come so far", runs, BEGINS_S, 0.05)
    return begun


def _burns(_: World) -> bool:
    return process_of("burn") is not None


def _last(world: World) -> str:
    """The code of the newest run's problem, once it has ended."""

    def ended() -> Found | None:
        done = world.kaalia("self-test", "machine", "--last", "--json")
        try:
            found: Found = json.loads(done.stdout)
        except ValueError:
            return None
        return found if found.get("result") else None

    return str((wait_until("the run to end", ended, ENDS_S)["problem"] or {}).get("code"))


def _answers(world: World) -> bool:
    try:
        return bool(world.client().report().gpus)
    except KaaliaError:
        return False


def _nothing_left(world: World, name: str, before: Mapping[str, frozenset[str]]) -> None:
    for what, look in LEFT.items():
        left = partial(_new, look, world, before[what])
        try:
            wait_until(f"no {what}", partial(_none, left), GONE_S)
        except TimeoutError:
            world.report.check(f"{name}: no {what} is left", False, left())
        else:
            world.report.check(f"{name}: no {what} is left", True)


def _none(look: Callable[[], list[str]]) -> bool:
    return not look()


def _new(look: Callable[[World], list[str]], world: World, before: frozenset[str]) -> list[str]:
    return [one for one in look(world) if one not in before]


def _containers(world: World) -> list[str]:
    listed = world.stack.engine.request("GET", "/containers/json?all=1")
    return [own for one in listed for own in one["Names"] if re.fullmatch(r"/C\.1\d{12}", own)]


def _images(world: World) -> list[str]:
    listed = world.stack.engine.request("GET", "/images/json")
    return [tag for one in listed for tag in one["RepoTags"] or () if tag.startswith(f"{jupyter_image.REPOSITORY}:")]


def _networks(world: World) -> list[str]:
    listed = world.stack.engine.request("GET", "/networks")
    return [one["Name"] for one in listed if re.search(r"C\.1\d{12}", one["Name"])]


def _processes(_: World) -> list[str]:
    return work_processes()


def work_processes() -> list[str]:
    """The command lines of the work programs that run on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"/selftest/work/" in command:
            found.append(command.decode(errors="replace"))
    return found


def _cgroups(world: World) -> list[str]:
    """Below the daemon's own, where the kernel has cgroups of the second version."""
    pid = world.stack.daemon.pid if world.stack.daemon else "self"
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    folder = Path("/sys/fs/cgroup", (own or "").lstrip("/"))
    return [] if own is None else [str(one) for one in folder.glob("kaalia-selftest-*")]


def _files(world: World) -> list[str]:
    return [str(path) for path in world.docker.data_root.glob(".kaalia*")]


def _held(world: World) -> list[str]:
    views = world.client().ledger().views
    gpus = [row for view in views if view.resource is Resource.GPU for row in view.rows]
    return [f"{row.name}: {row.owner}" for row in gpus if row.owner]


LEFT: dict[str, Callable[[World], list[str]]] = {
    "container": _containers,
    "image": _images,
    "network": _networks,
    "process": _processes,
    "cgroup": _cgroups,
    "file": _files,
    "GPU that is held": _held,
}
