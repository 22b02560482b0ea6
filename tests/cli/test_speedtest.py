"""`kaalia speedtest`: the table, an order that is followed to its end, refusals in words, and programs' JSON."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from kaalia.errors import Problem
from kaalia.model.speed import Direction, SpeedFailure, SpeedProgress
from kaalia.store import speed
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.support.builders import build_speed
from tests.support.clock import START

NEWER = build_speed(START + timedelta(minutes=1))


def carry_out(daemon: Daemon, end: SpeedFailure | None = None) -> threading.Thread:
    """What the service does, without bytes: progress, and a new result or a failure."""

    def finish(tx: Transaction) -> None:
        if end is None:
            speed.put_result(tx, NEWER)
        speed.put_failure(tx, end)
        speed.put_order(tx, None)
        speed.put_progress(tx, None)

    def work() -> None:
        while daemon.read(speed.get_order) is None:
            time.sleep(0.02)
        daemon.write(lambda tx: speed.put_progress(tx, SpeedProgress(Direction.DOWN, 0.25, 812.5)))
        time.sleep(0.5)
        daemon.write(finish)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_before_the_first_test_it_says_how_to_begin(run: Run, daemon: Daemon) -> None:
    result = run("speedtest", "--last", "--socket", str(daemon.socket))

    assert result.code == 0
    assert "never measured" in result.out


def test_the_newest_result_is_shown_with_method_time_and_confidence(run: Run, daemon: Daemon) -> None:
    daemon.write(lambda tx: speed.put_result(tx, replace(build_speed(), limited=True)))

    out = run("speedtest", "--last", "--socket", str(daemon.socket)).out

    lines = [line.split() for line in out.splitlines()]
    assert ["down", "940.0", "8.5", "s", "2.1%", "±", "1.1%", "high", "12", "%"] in lines
    assert ["up", "415.5", "8.5", "s", "2.1%", "±", "1.1%", "high", "12", "%"] in lines
    assert "8 parallel TCP streams" in out
    assert "2026-01-01 12:00 UTC, limited: tenants ran" in out
    assert "https://market.example" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_an_order_is_followed_to_its_result(run: Run, daemon: Daemon) -> None:
    thread = carry_out(daemon)
    result = run("speedtest", "--json", "--socket", str(daemon.socket))
    thread.join()

    assert result.code == 0
    assert json.loads(result.out)["found"]["measured_at"] == "2026-01-01T12:01:00Z"


def test_an_order_that_fails_is_told_with_its_code(run: Run, daemon: Daemon) -> None:
    daemon.write(lambda tx: speed.put_result(tx, build_speed()))
    failure = SpeedFailure(START, Problem("speed_cut_off", "cannot measure with x: it ended", "see the peer's log"))
    thread = carry_out(daemon, failure)
    result = run("speedtest", "--socket", str(daemon.socket))
    thread.join()

    assert result.code == 1
    assert "cannot measure with x: it ended [speed_cut_off]" in result.err
    assert "940" not in result.out, "no number"


def test_while_tenants_run_it_asks_for_force(run: Run, rented: Daemon) -> None:
    result = run("speedtest", "--socket", str(rented.socket))

    assert result.code == 1
    assert "[speed_tenants_run]" in result.err
    assert "kaalia speedtest --force" in result.err


def test_a_secret_is_read_from_a_file_and_a_bad_one_refused(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("short")
    refused = run("speedtest", "--peer", "h:1", "--secret-file", str(file), "--socket", str(daemon.socket))
    assert refused.code == 2
    assert "[speed_secret_invalid]" in refused.err

    file.write_text("a secret of two machines\n")
    thread = carry_out(daemon)
    run("speedtest", "--peer", "h:1", "--secret-file", str(file), "--socket", str(daemon.socket))
    thread.join()


def test_probe_speed_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret of two machines\n")
    argv = [sys.executable, "-m", "kaalia.cli.main", "probe", "speed", "--secret-file", str(file)]
    with subprocess.Popen([*argv, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        said = peer.stdout.readline()
        place = said.split()[-1]
        second = subprocess.run([*argv, "--listen", place], capture_output=True, text=True, timeout=20, check=False)
        peer.send_signal(signal.SIGTERM)
        assert peer.wait(10) == 0

    assert said.startswith("the speed peer answers on 127.0.0.1:")
    assert second.returncode == 2
    assert "[speed_listen_failed]" in second.stderr
