"""The scripts that hosts know by their paths: test_nvml.py and send_mach_info.py, as any Python starts them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.test_run import Home
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, machine, write

SCRIPTS = Path(__file__).parents[2] / "scripts"
Done = subprocess.CompletedProcess[str]


def script(name: str, *args: str, **env: str) -> Done:
    known = os.environ | {"KAALIA_PYTHON": sys.executable, "PYTHONPATH": str(SCRIPTS.parent)} | env
    return subprocess.run(
        ["/usr/bin/env", "python3", SCRIPTS / name, *args],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=known,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def test_the_driver_is_asked_and_told_in_a_table(library: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    write(profile, machine("2xRTX_4090"))
    env = environment(library, profile)

    table = script("test_nvml.py", **env)
    document = json.loads(script("test_nvml.py", "--json", **env).stdout)

    assert table.returncode == 0, table.stderr
    assert "(simulated)" in table.stdout.splitlines()[0]
    assert table.stdout.count("RTX 4090") == 2
    assert [gpu["index"] for gpu in document["gpus"]] == [0, 1]


def test_a_driver_that_hangs_is_told_and_kept_off(library: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    write(profile, machine("2xRTX_4090") + fault("nvmlDeviceGetName", "hang"))

    done = script("test_nvml.py", "--deadline", "1", **environment(library, profile))

    assert done.returncode == 1
    assert "the driver hangs" in done.stdout


def test_no_driver_is_told(tmp_path: Path) -> None:
    done = script("test_nvml.py", LD_LIBRARY_PATH=str(tmp_path))

    assert (done.returncode, "no NVIDIA driver" in done.stdout) == (2, True), done.stderr


def test_without_an_installed_kaalia_the_remedy_is_said(tmp_path: Path) -> None:
    done = script("send_mach_info.py", KAALIA_PYTHON=str(tmp_path / "none"))

    assert done.returncode == 1
    assert "run install.sh" in done.stderr


def test_what_would_be_sent_is_shown_without_a_daemon(home: Home) -> None:
    done = script("send_mach_info.py", "--dry-run", "--config", str(home.config))

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cpu"]["logical_cores"] > 0
    assert any(gap["field"] == "engine" for gap in report["missing"])


def test_a_daemon_that_is_not_enrolled_reads_anew_and_says_so(home: Home) -> None:
    home.start()
    home.running()

    done = script("send_mach_info.py", "--config", str(home.config))
    nobody = script("send_mach_info.py", "--socket", str(home.folder / "none"))

    assert done.returncode == 2
    assert "not_enrolled" in done.stderr
    assert nobody.returncode == 2
    assert "daemon_not_running" in nobody.stderr
