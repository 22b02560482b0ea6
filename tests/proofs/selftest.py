"""`kaalia self-test machine` passes on a machine that is well, and fails with the right requirement or step on each of
many that lack something; however it is broken off, nothing of it stays in Docker, on the disk or on the GPUs.

Simulated: the driver of 2x RTX 4090 with NVML and CUDA, the size of the computer, a processor with a bad core. True:
the marketplace, the daemon, Docker, the programs. Prints a line for each, and last the table of docs/self-test.md.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.proofs import deficits_gpu, deficits_host, deficits_machine, selftest_ends
from tests.proofs.deficiency import Deficiency, World, failures, since
from tests.proofs.report import Report, Say
from tests.support import fake_cpu
from tests.support.canaries import kit_with_program
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_host import FakeHost
from tests.support.fake_nvidia.build import build, build_cuda, environment, install_hook
from tests.support.fake_nvidia.profiles import machine, well, write
from tests.support.images import import_demo
from tests.support.stack import Stack, StackOptions
from tests.support.waiting import wait_until

GPUS = 2
DISK_BYTES = 300 * 1000**3
"""Of a sparse file: 128 GB for each GPU are required."""
CONFIG: dict[str, Any] = {
    "intervals": {"report_s": 0.5, "resync_s": 5, "heartbeat_s": 5},
    "nvml": {"deadline_s": 4},
    "speed": {"peer": "marketplace", "max_gb": 1},
}
QUICK_S = 60.0
"""The bar for all steps of a quick test on the simulated driver."""
CALM_S = 60.0


@dataclass(frozen=True)
class Row:
    deficiency: Deficiency
    found: tuple[str, ...]
    took_s: float


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every deficiency once; seed has no say here. `rounds`: only so many of each group."""
    report = Report(say)
    with TemporaryDirectory(prefix="kaalia-") as folder, _world(Path(folder), report) as world:
        _passes(world, quick=False)
        _passes(world)
        selftest_ends.check(world)
        _advises(world)
        rows = [row for group in _groups(rounds) for row in _run(world, group)]
        _passes(world)
    report.counts["deficiencies"] = len(rows)
    for line in table(rows):
        print(line)
    return report


def table(rows: Iterable[Row]) -> Iterable[str]:
    """As in docs/self-test.md."""
    yield "| What is wrong | What fails | Test took, s |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row.deficiency.name} | {', '.join(f'`{one}`' for one in row.found)} | {row.took_s:.0f} |"


def _groups(rounds: int) -> Iterator[tuple[Deficiency, ...]]:
    for group in (deficits_gpu.ALL, deficits_host.ALL, deficits_machine.ALL):
        yield group[:rounds] if rounds else group


@contextmanager
def _world(home: Path, report: Report) -> Iterator[World]:
    with ExitStack() as cleanup:
        host = cleanup.enter_context(FakeHost(home / "host"))
        hook = install_hook(home / "hook")
        docker = cleanup.enter_context(PrivateDocker(home / "docker", extra_path=hook.folder, disk_bytes=DISK_BYTES))
        import_demo(docker)
        profile, control = home / "gpus.txt", home / "cpu.txt"
        base = well(machine(f"{GPUS}xRTX_4090"), GPUS)
        write(profile, base)
        library = build_cuda(build(home / "driver"))
        config = {**CONFIG, "access": {"kit_dir": str(kit_with_program(home))}}
        stack = Stack(
            home / "stack",
            StackOptions(
                docker,
                port_range="21000-21099",
                gpu_env=environment(library, profile),
                extra_config=config,
                extra_env=fake_cpu.environment(home / "cpu", control),
            ),
        )
        cleanup.callback(stack.close)
        stack.up()
        world = World(stack, docker, hook, host, profile, base, control, library, report)
        world.read_anew()
        done = world.kaalia("speedtest", "--json")
        report.check("the speed of the line is measured", done.returncode == 0, done.stderr)
        yield world


def _passes(world: World, *, quick: bool = True) -> None:
    """The whole test, on a machine that is well."""
    began = time.monotonic()
    code, found = world.test(quick=quick)
    took_s = since(began)
    wrong = failures(found)
    kind = "quick" if quick else "full"
    world.report.check(
        f"a machine that is well passes the {kind} test", code == 0 and not wrong, (code, wrong, _told(found))
    )
    world.report.worst(f"{kind}_test_s", took_s)
    load = os.getloadavg()[0]
    if quick and load < 2 * len(os.sched_getaffinity(0)):
        world.report.check(f"the quick test takes less than {QUICK_S:g} s", took_s < QUICK_S, took_s)
    else:
        world.report.say(f"the {kind} test took {took_s} s (load {load:.1f})")
    if not quick:
        launch = next((one["words"] for one in found.get("steps", ()) if one["step"] == "launch"), "")
        world.report.check("Jupyter answers", "Jupyter answers" in launch, launch)
    _drawn(world)
    for one in found.get("steps", ()):
        world.report.say(f"  {one['step']}: {one['outcome']} after {one['took_s']} s: {one['words'][:150]}")
    for one in found.get("verdicts", ()):
        if one["outcome"] != "passed":
            world.report.say(f"  {one['requirement']}: {one['outcome']}: {one['actual']}, {one['required']}")


def _drawn(world: World) -> None:
    """The report and the picture of the newest run."""
    picture, report = world.profile.with_name("burn.png"), world.profile.with_name("report.json")
    done = world.kaalia("self-test", "machine", "--last", "--plot", str(picture), "--report", str(report))
    world.report.check("the newest run is shown", done.returncode == 0, done.stderr)
    samples = json.loads(report.read_text())["samples"]
    for name in ("temperature_c", "clock_mhz", "power_w", "throughput"):
        gpus = {one["gpu_uuid"] for one in samples if one.get(name) is not None}
        world.report.check(f"each GPU has samples of {name}", len(gpus) == GPUS, gpus)
    world.report.check("the burn is drawn", picture.read_bytes().startswith(b"\x89PNG"))


def _advises(world: World) -> None:
    """What is no fault, and is told nevertheless."""
    storm = deficits_gpu.STORM
    with storm.strike(world):
        code, found = world.test(*storm.options())
    words = [one["words"] for one in found.get("steps", ())]
    is_told = any("ECC corrected" in one for one in words)
    world.report.check(f"{storm.name}: told, and nothing fails", code == 0 and is_told, (code, words))


def _told(found: dict[str, Any]) -> list[str]:
    return [one["words"] for one in found.get("steps", ()) if one["outcome"] == "failed"] + [str(found.get("problem"))]


def _run(world: World, group: Iterable[Deficiency]) -> Iterator[Row]:
    for one in group:
        _calm(world)
        row = _one(world, one)
        if row is not None:
            yield row
    _calm(world)


def _one(world: World, deficiency: Deficiency) -> Row | None:
    report = world.report
    with deficiency.strike(world):
        try:
            deficiency.before(world)
        except TimeoutError as error:
            report.check(f"{deficiency.name}: it is seen", False, error)
            return None
        began = time.monotonic()
        code, found = world.test(*deficiency.options(), quick=deficiency.quick)
        took_s = since(began)
    wrong = failures(found)
    report.check(f"{deficiency.name}: exit code 1", code == 1, (code, found.get("problem")))
    report.check(f"{deficiency.name}: {deficiency.expected}", deficiency.expected in wrong, (wrong, _told(found)))
    others = [one for one in wrong if one != deficiency.expected and not one.startswith(deficiency.besides)]
    report.check(f"{deficiency.name}: nothing else fails", not others, (others, _told(found)))
    remedies = [
        one.get("remedy") for part in ("steps", "verdicts") for one in found.get(part, ()) if one["outcome"] == "failed"
    ]
    report.check(f"{deficiency.name}: each failure has a remedy", all(remedies), remedies)
    report.worst("slowest_test_s", took_s)
    report.say(f"{deficiency.name}: {', '.join(wrong)} after {took_s:.1f} s: {'; '.join(_told(found))[:160]}")
    return Row(deficiency, (deficiency.expected, *(one for one in wrong if one != deficiency.expected)), took_s)


def _calm(world: World) -> None:
    """What was mended is seen to be so: the GPUs are well, and the report is a new one."""
    try:
        world.read_anew()
        wait_until("the GPUs to be well", lambda: not [code for code in world.told() if code.startswith("gpu")], CALM_S)
    except TimeoutError as error:
        world.report.check("what was mended is over", False, (error, world.told()))
