"""The unmodified `vastai self-test machine` passes on a good machine and tells the right failure_code of bad ones;
after each, Docker holds nothing of it and the machine can be rented as before.

Marketplace, daemons, Docker Engine and image are the real ones; six machines share one engine, each with simulated
GPUs. Takes as long as the client's longest wait, a quarter of an hour, and three cases more. Prints the table of
docs/self-test-image.md.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.proofs.report import Report, Say
from tests.proofs.selftest_faults import (
    DYING,
    ENDLESS,
    LAST,
    PASSES,
    QUEUES,
    STUCK,
    UNMEASURED,
    Case,
    Found,
    World,
)
from tests.support.registry import Mode, Registry
from tests.support.self_test_image import import_self_test, settings_file, work_file
from tests.support.self_tests import Host, Room, bundle, room
from tests.support.waiting import wait_until

GONE_S = 90.0
NEVER_S = 5000.0


@dataclass(frozen=True)
class Row:
    case: Case
    code: str
    took_s: float
    is_clean: bool


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every fault once; seed has no say here. `rounds`: only so many queues."""
    return _prove(QUEUES[:rounds] if rounds else QUEUES, LAST, say)


def prove_only(words: str, say: Say) -> Report:
    """The cases whose names have these words, or one of those between commas."""
    queues = tuple(_named(queue, words) for queue in QUEUES)
    return _prove(tuple(queue for queue in queues if queue), _named(LAST, words), say)


def _named(cases: Iterable[Case], words: str) -> tuple[Case, ...]:
    return tuple(case for case in cases if any(word in case.name for word in words.split(",")))


def _prove(queues: tuple[tuple[Case, ...], ...], last: tuple[Case, ...], say: Say) -> Report:
    report = Report(say)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(TemporaryDirectory(prefix="kaalia-")))
        made = cleanup.enter_context(room(folder))
        world = cleanup.enter_context(_world(made))
        hosts = [made.first, *(made.another(number) for number in range(1, len(queues)))]
        for host in hosts:
            host.stack.list_machine()
        for host, queue in zip(hosts, queues or (last,), strict=True):  # one after the other: they share the processors
            if UNMEASURED not in queue:
                host.measure()
        say(f"{len(hosts)} machines are ready")
        with ThreadPoolExecutor(len(hosts)) as pool:
            found = list(pool.map(lambda host, cases: _queue(host, cases, world, report), hosts, queues))
        found.append(_queue(made.first, last, world, report))
        rows = [row for queue in found for row in queue]
        for host in hosts:
            report.check(f"machine {host.stack.machine_id} holds nothing", not host.left(), host.left())
    report.counts["tests"] = len(rows)
    report.counts["faults"] = sum(row.case.code != PASSES for row in rows)
    for line in table(rows):
        print(line)
    return report


def table(rows: Iterable[Row]) -> Iterable[str]:
    """As in docs/self-test.md."""
    yield "| What | The client says | After, s | Left in Docker |"
    yield "|---|---|---|---|"
    for row in rows:
        left = "nothing" if row.is_clean else "something"
        yield f"| {row.case.name} | `{row.code}` | {row.took_s:.0f} | {left} |"


def _queue(host: Host, cases: Iterable[Case], world: World, report: Report) -> list[Row]:
    return [_one(host, case, world, report) for case in cases]


def _one(host: Host, case: Case, world: World, report: Report) -> Row:
    began = time.monotonic()
    try:
        found = case.run(host, world)
    except (ValueError, TimeoutError, AssertionError, RuntimeError) as error:
        report.check(f"{case.name}: the client ends in order", False, error)
        found = {}
    took_s = time.monotonic() - began
    code = PASSES if found.get("success") else str(found.get("failure_code"))
    report.check(f"{case.name}: the client says {case.code}", code == case.code, _told(found))
    if case.root_state:
        seen = (found.get("failure") or {}).get("root_state")
        report.check(f"{case.name}: the root state is {case.root_state}", seen == case.root_state, seen)
    if case.evidence:
        shown = " ".join((found.get("failure") or {}).get("evidence") or ())
        report.check(f"{case.name}: the client shows {case.evidence}", case.evidence in shown, shown)
    if case.has_instance and case.code != PASSES and code == case.code:
        _check_bundle(case, found, report)
    is_clean = _is_clean(host, case, report)
    report.say(f"machine {host.stack.machine_id}: {case.name}: {code} after {took_s:.0f} s")
    return Row(case, code, took_s, is_clean)


def _is_clean(host: Host, case: Case, report: Report) -> bool:
    try:
        wait_until("Docker to hold nothing", lambda: not host.left(), GONE_S, 0.5)
        wait_until("the machine to be offered again", lambda: host.stack.rentable_offer(2), GONE_S, 0.5)
    except TimeoutError as error:
        report.check(f"{case.name}: the machine is as before", False, (host.left(), error))
        return False
    return True


def _check_bundle(case: Case, found: Found, report: Report) -> None:
    """The client could read what it collects for the host: the row, the container's log and the daemon's."""
    errors = found["diagnostics"].get("instance_log_collection", {}).get("collection_errors")
    report.check(f"{case.name}: all logs were collected", errors == [], errors)
    files = bundle(found)
    story = files.get("instance/daemon.log", "")
    report.check(f"{case.name}: the daemon's story is in the bundle", bool(story.strip()), sorted(files))


def _told(found: Found) -> object:
    return {key: found.get(key) for key in ("failure_code", "stage", "reason", "error", "failure")}


@contextmanager
def _world(made: Room) -> Iterator[World]:
    """Variants of the image, and two registries."""
    tar, late = made.tar, settings_file(deadline_s=NEVER_S)
    odd = {
        name: import_self_test(made.engine, tar, f"kaalia/{name}:latest", {work_file("compute"): program, **late})
        for name, program in (("stuck", STUCK), ("endless", ENDLESS), ("dying", DYING))
    }
    with _registry(Registry()) as plain, _registry(Registry(mode=Mode.SLOW, chunk_wait_s=10)) as slow:
        slow_image = slow.add("self-test", "latest", [os.urandom(12 << 20)])
        yield World(f"{plain.address}/absent:1", slow_image, **odd)


@contextmanager
def _registry(registry: Registry) -> Iterator[Registry]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(registry.start(), loop).result(10)
    yield registry
    asyncio.run_coroutine_threadsafe(registry.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
