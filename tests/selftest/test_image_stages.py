"""The self-test image's program, whole: stages, ends, the door, and how the public client reads all that."""

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, machine, setting, write
from tests.support.public_client import code_of_progress
from tests.support.stack import free_port
from tests.support.waiting import wait_until
from verification import stages
from verification.progress import Progress
from verification.settings import WORK, Limits, Settings

HOME = Path(__file__).parents[2] / "images" / "self-test"
STEPS = (
    *("compute", "matrix", "device_bandwidth", "host_bandwidth", "memory", "peer_bandwidth", "collective"),
    *("disk", "burn", "cpu", "ram"),
)
GOOD = 'print(\'{"figure": {"name": "speed", "value": 2.5, "unit": "GB/s"}}\\n{"end": "passed", "words": "all well"}\')'


@dataclass(frozen=True)
class Running:
    port: int

    def body(self, path: str = "/progress") -> str:
        """Raises OSError while nobody answers."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", timeout=10, context=context) as reply:
            return str(reply.read().decode())

    def look(self) -> str | None:
        try:
            return self.body() or None
        except OSError:
            return None

    def end(self) -> list[str]:
        """All lines, once the test is over."""

        def look() -> list[str] | None:
            lines = (self.look() or "").split("\n")
            return lines if lines[-1] == "DONE" or lines[-1].startswith("ERROR") else None

        return wait_until("the test to end", look, 30)


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def start(tmp_path: Path, driver: Path) -> Iterator[Start]:
    """Runs the program with work programs of a test's own: `programs` by step, the others pass."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(
        programs: dict[str, str] | None = None,
        gpus: str = machine("2xRTX_4090"),
        log: str = os.devnull,
        **settings: Any,
    ) -> Running:
        work, port = tmp_path / WORK, free_port()
        work.mkdir(parents=True)
        for step, text in {**dict.fromkeys(STEPS, GOOD), **(programs or {})}.items():
            (work / f"{step}.py").write_text(text)
        limits = {"vram_free_share": 0.98, "ram_share": 1e-6, "ram_cap_mib": 1, "cores_per_gpu": 0}
        told = {
            "port": port,
            "quiet_s": 60,
            "deadline_s": dict.fromkeys(STEPS, 20.0),
            "arguments": {},
            "limits": limits,
        }
        (tmp_path / "settings.json").write_text(json.dumps({**told, **settings}))
        write(tmp_path / "gpus.txt", gpus)
        argv = [sys.executable, "-E", "-s", "-S", "-u", "-m", "verification", str(tmp_path)]
        env = {**os.environ, **environment(driver, tmp_path / "gpus.txt")}
        with Path(log).open("wb") as output:
            running.append(subprocess.Popen(argv, cwd=HOME, env=env, stdout=output))
        return Running(port)

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_a_good_machine_passes_by_the_client_s_own_stages(start: Start) -> None:
    made = start()

    lines = made.end()

    assert lines[-1] == "DONE"
    assert [line for line in lines if line.startswith("Running ")] == [
        "Running system requirements test...",
        "Running ResNet50/ResNet18 test...",
        "Running ECC test...",
        "Running NCCL distributed test...",
        "Running stress-ng and gpu-burn...",
    ]
    assert "memory: passed: all well; speed 2.5 GB/s" in lines
    assert "GPU 1: NVIDIA GeForce RTX 4090, 24563 of 24564 MiB free" in lines
    assert code_of_progress(lines) == []
    with pytest.raises(urllib.error.HTTPError, match="404"):
        made.body("/etc/passwd")


_END = {
    "end": "failed",
    "code": "x",
    "words": "cannot trust GPU 0: 3 wrong words",
    "remedy": "change it, see nvidia-smi",
}
BAD = f"print({json.dumps(json.dumps(_END))})"
"""A failure that names no kind of its own: the client takes it from the stage."""
BROKEN = {
    "compute": "resnet_failed",
    "host_bandwidth": "resnet_failed",
    "memory": "ecc_failed",
    "collective": "nccl_failed",
    "burn": "stress_gpu_burn_failed",
    "ram": "stress_gpu_burn_failed",
}


@pytest.mark.parametrize("step", BROKEN)
def test_a_step_that_fails_ends_the_test_with_the_client_s_code(start: Start, step: str) -> None:
    lines = start({step: BAD}).end()

    assert lines[-1].startswith("ERROR: ")
    assert lines[-1].endswith(f"{step}: cannot trust GPU 0: 3 wrong words")
    assert lines[-2] == f"{step}: what to do: change it, see nvidia-smi"
    assert code_of_progress(lines) == [BROKEN[step]]


@pytest.mark.parametrize(
    ("programs", "settings", "why"),
    [
        ({"matrix": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"}, {}, "its program ended by signal 11"),
        ({"matrix": "raise OSError('no libcuda')"}, {}, "ended with code 1: OSError: no libcuda"),
        ({"matrix": 'print(\'{"end": "fine"}\')'}, {}, "in a way that nobody knows: 'fine'"),
        ({"matrix": "import time; time.sleep(60)"}, {"deadline_s": dict.fromkeys(STEPS, 1.0)}, "not ended after 1 s"),
        ({}, {"arguments": {"matrix": {"words": "x" * (1 << 18)}}}, "cannot be started: [Errno 7] Argument list too"),
    ],
)
def test_a_program_that_breaks_or_hangs_is_a_failure(
    start: Start, programs: dict[str, str], settings: dict[str, Any], why: str
) -> None:
    lines = start(programs, **settings).end()

    assert why in lines[-1]
    assert code_of_progress(lines) == ["resnet_failed"]


@pytest.mark.parametrize(
    ("gpus", "why", "code"),
    [
        (fault("nvmlInit_v2", "error 18") + machine("1xRTX_4090"), "library versions do not match", "nvml_failed"),
        (fault("nvmlDeviceGetMemoryInfo_v2", "abort") + machine("1xRTX_4090"), "by signal 6", "nvml_failed"),
        ("system count 0\n" + machine("1xRTX_4090"), "sees no GPU", "nvml_failed"),
        (setting(1, "vram_used_mb", 2000) + machine("2xRTX_4090"), "GPU 1 has 91.9% of its", "legacy_progress_error"),
    ],
)
def test_a_machine_below_the_requirements_fails_at_once(start: Start, gpus: str, why: str, code: str) -> None:
    lines = start(gpus=gpus).end()

    assert why in lines[-1]
    assert "nvidia-smi" in lines[-2], "what to do"
    assert code_of_progress(lines) == [code]
    assert not [line for line in lines if "ResNet" in line]


def test_a_step_that_is_skipped_is_no_failure_and_a_program_says_no_end_of_the_test(start: Start) -> None:
    skipped = 'print(\'{"end": "skipped", "words": "one GPU"}\')'
    mocking = 'print(\'{"progress": 0.5, "words": "DONE"}\\n{"end": "passed", "words": "\\\\nDONE\\\\nERROR: no"}\')'

    lines = start({"collective": skipped, "disk": mocking}).end()

    assert "collective: skipped: one GPU" in lines
    assert "disk: passed: DONE ERROR: no" in lines
    assert lines.count("DONE") == 1


def test_figures_of_many_gpus_are_one(start: Start) -> None:
    values = [("gbps", 8.25), ("size", 256), ("gbps", 11.5), ("size", 256), ("gbps", 9), ("note", None)]
    figures = [{"figure": {"name": name, "value": value, "unit": "GB/s"}} for name, value in values]
    told = "\n".join(json.dumps(one) for one in (*figures, {"end": "passed", "words": "well"}))

    lines = start({"peer_bandwidth": f"print({told!r})"}).end()

    found = [line for line in lines if line.startswith("peer_bandwidth: ")]
    assert found == [
        "peer_bandwidth: passed: well; gbps 8.25 to 11.5 GB/s (3 times); size 256 GB/s (2 times); note None GB/s"
    ]


def test_a_test_that_is_stuck_says_nothing_more(start: Start) -> None:
    made = start({"compute": "import time; time.sleep(5)"}, quiet_s=1.0)
    wait_until("its first words", made.look, 20)

    wait_until("it to be silent", lambda: made.body() == "", 20)

    assert made.end()[-1].startswith("ERROR")


def test_what_the_driver_keeps_for_itself_is_used_by_nobody(start: Start) -> None:
    """3 % of a small GPU: a test that is alone there would fail for want of free memory."""
    lines = start(gpus=setting(0, "vram_reserved_mb", 400) + machine("1xRTX_3060")).end()

    assert "GPU 0: NVIDIA GeForce RTX 3060, 12287 of 12288 MiB free" in lines
    assert lines[-1] == "DONE"


def test_a_log_on_a_full_disk_holds_nothing_up(start: Start) -> None:
    assert start(log="/dev/full").end()[-1] == "DONE"


class Tripping(Progress):
    """It breaks where the test does not look for it."""

    def say(self, text: str) -> None:
        if text == stages.SYSTEM_LINE:
            raise RuntimeError("can't start new thread")
        super().say(text)


def test_a_test_that_breaks_is_no_failure_of_a_gpu(tmp_path: Path) -> None:
    limits = Limits(vram_free_share=0, ram_share=0, ram_cap_mib=0, cores_per_gpu=0)
    progress = Tripping(quiet_s=60)

    stages.run(Settings(tmp_path, 0, 60, {}, {}, limits), progress)

    lines = progress.body().split("\n")
    assert lines == ["what broke: RuntimeError", "ERROR: the test itself broke: can't start new thread"]
    assert code_of_progress(lines) == ["legacy_progress_error"]
