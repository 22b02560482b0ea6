"""The daemon as a process of its own, as systemd starts it; without a Docker Engine."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kaalia.client import LocalClient
from kaalia.errors import UnreachableError
from kaalia.wire.local import DaemonStatus
from tests.support.waiting import wait_until


class Home:
    """A folder with a configuration; starts daemons in it and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "kaalia.yaml"
        self.state = folder / "state"
        self.client = LocalClient(folder / "s")
        self._processes: list[subprocess.Popen[str]] = []
        self.configure()

    def configure(self, **more: object) -> None:
        document = {
            "state_dir": str(self.state),
            "socket": str(self.folder / "s"),
            "docker": {"host": f"unix://{self.folder}/docker.sock"},
            **more,
        }
        self.config.write_text(yaml.safe_dump(document))

    def start(self, *args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kaalia.daemon", "--config", str(self.config), *args],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
        )
        self._processes.append(process)
        return process

    def status(self) -> DaemonStatus | None:
        try:
            return self.client.status()
        except UnreachableError:
            return None

    def running(self) -> DaemonStatus:
        return wait_until("the daemon to answer", self.status, 30)

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def codes(status: DaemonStatus) -> set[str]:
    return {problem.code for problem in status.problems}


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, float, str]:
    """Exit code, seconds until the end, and what it said."""
    started = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    return process.returncode, time.monotonic() - started, said


def test_it_runs_without_docker_and_enrolment_and_says_so(home: Home) -> None:
    process = home.start()
    home.running()

    status = wait_until("the first report", lambda: s if (s := home.status()) and s.reported_at else None, 20)

    assert {"engine_unavailable", "not_enrolled"} <= codes(status)
    assert status.pid == process.pid
    assert (home.state.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_detaches_within_two_seconds(home: Home, number: signal.Signals) -> None:
    process = home.start()
    home.running()

    code, seconds, said = end(process, number)

    assert code == 0, said
    assert seconds < 3
    assert "detached" in said
    assert not (home.folder / "s").exists()


def test_an_engine_that_never_answers_does_not_keep_it_from_going(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(home.folder / "docker.sock"))
        engine.listen(16)
        process = home.start()
        home.running()
        visitor, _ = engine.accept()

        code, seconds, said = end(process)
        visitor.close()

    assert code == 0, said
    assert seconds < 4


def test_sighup_is_ignored_with_a_word(home: Home) -> None:
    process = home.start()
    home.running()

    process.send_signal(signal.SIGHUP)
    home.running()

    assert "SIGHUP ignored" in end(process)[2]


def test_a_second_daemon_of_the_same_state_refuses(home: Home) -> None:
    first = home.start()
    home.running()
    home.configure(socket=str(home.folder / "other"))

    second = home.start()
    _, said = second.communicate(timeout=20)

    assert second.returncode == 2
    assert "already_running" in said
    assert f"pid {first.pid}" in said
    assert first.poll() is None


def test_it_starts_again_after_it_was_killed(home: Home) -> None:
    first = home.start()
    home.running()
    first.kill()
    first.wait()

    second = home.start()

    wait_until("the second one to answer", lambda: (s := home.status()) and s.pid == second.pid, 20)


def test_check_says_that_a_configuration_is_valid_and_starts_nothing(home: Home) -> None:
    process = home.start("--check")
    out, _ = process.communicate(timeout=20)

    assert (process.returncode, out) == (0, "the configuration is valid\n")
    assert not home.state.exists()


@pytest.mark.parametrize("args", [[], ["--check"]])
def test_a_wrong_configuration_is_refused_in_a_sentence(home: Home, args: list[str]) -> None:
    home.configure(port={"range": "1-2"})

    process = home.start(*args)
    _, said = process.communicate(timeout=20)

    assert process.returncode == 2
    assert "unknown key port" in said
    assert "write ports" in said
    assert "Traceback" not in said


def make_state(home: Home) -> Path:
    process = home.start()
    home.running()
    end(process)
    return home.state / "state.db"


def expect_safe_mode(home: Home, code: str) -> None:
    process = home.start()
    status = home.running()
    assert status.safe_mode
    assert codes(status) == {code}
    time.sleep(0.5)
    assert process.poll() is None
    assert "safe mode" in end(process)[2]


def test_corrupt_state_means_safe_mode_and_the_file_stays_as_it_is(home: Home) -> None:
    path = make_state(home)
    path.write_bytes(b"not a database" * 1000)
    before = path.read_bytes()

    expect_safe_mode(home, "state_corrupt")

    assert path.read_bytes() == before


def test_state_of_a_newer_version_means_safe_mode(home: Home) -> None:
    path = make_state(home)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()

    expect_safe_mode(home, "state_newer")


@pytest.mark.parametrize("lost", ["absent", "empty"])
def test_a_machine_that_lost_its_state_does_not_start_empty(home: Home, lost: str) -> None:
    path = make_state(home)
    (home.state / "identity.pem").write_text("a key")
    path.unlink() if lost == "absent" else path.write_bytes(b"")

    expect_safe_mode(home, "state_missing")

    assert not path.exists() or path.stat().st_size == 0


def test_the_process_holds_no_library_that_it_does_not_need() -> None:
    heavy = (
        *("typer", "rich", "sqlalchemy", "aiosqlite", "kaalia.marketplace", "kaalia.cli", "pynvml"),
        *("kaalia.runtime.view", "kaalia.transfer.cell"),
    )
    script = f"import sys, kaalia.daemon.run; print([name for name in {heavy!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_the_process_says_nothing_of_what_it_leaves_out(home: Home) -> None:
    checked = [sys.executable, "-X", "importtime", "-m", "kaalia.daemon", "--config", str(home.config), "--check"]

    done = subprocess.run(checked, capture_output=True, text=True, timeout=60, check=True)

    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = [line for line in done.stderr.splitlines() if line.endswith(("charset_normalizer.api", " docker"))]
    assert told == []
    assert [line.split()[-1] for line in imported] == ["docker"]
