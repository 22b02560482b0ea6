"""`kaalia doctor --fix`: every command is shown before it is done, nothing is done without a yes."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from kaalia.cli import output
from kaalia.cli.commands import doctor_fix
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.store import conditions
from tests.cli.conftest import Daemon, Result, Run
from tests.support.clock import START

CLOCK = Condition(Problem("clock_unsynchronised", "cannot be sure of the time"), Severity.WARN, "later")
RAID = Condition(Problem("raid_degraded", "cannot lose a disk", "replace it"), Severity.CRITICAL, "later", "md0")


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A `timedatectl` that only writes down how it was called."""
    program = tmp_path / "bin/timedatectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/called\n[ ! -e {tmp_path}/refuse ]\n')
    program.chmod(0o755)
    return tmp_path


def fix(rented: Daemon, shell: Path, *options: str) -> Result:
    """As a person starts it; the command line becomes another program."""
    rented.write(partial(conditions.replace, source="host", found=(CLOCK, RAID), now=START))
    done = subprocess.run(
        [sys.executable, "-m", "kaalia.cli.main", "doctor", "--fix", *options, "--socket", str(rented.socket)],
        env={**os.environ, "PATH": f"{shell}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_a_dry_run_shows_each_command_and_does_nothing(rented: Daemon, shell: Path) -> None:
    result = fix(rented, shell, "--dry-run")

    assert result.code == 0
    assert "+ timedatectl set-ntp true" in result.out
    assert "by hand: cannot lose a disk [raid_degraded]" in result.out
    assert not (shell / "called").exists()


def test_without_a_yes_nothing_is_done(rented: Daemon, shell: Path) -> None:
    result = fix(rented, shell)

    assert result.code != 0
    assert "cannot ask" in result.err or "not root" in result.err
    assert not (shell / "called").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mends a machine")
def test_with_a_yes_it_is_done_and_told(rented: Daemon, shell: Path) -> None:
    result = fix(rented, shell, "--yes")

    assert (result.code, (shell / "called").read_text()) == (0, "set-ntp true\n")
    assert "done: clock_unsynchronised" in result.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mends a machine")
def test_what_fails_is_told_with_its_reason(rented: Daemon, shell: Path) -> None:
    (shell / "refuse").touch()
    result = fix(rented, shell, "--yes")

    assert result.code == 1
    assert "not done: clock_unsynchronised" in result.out
    assert "command_failed" in result.err


def test_options_of_the_fix_mean_nothing_alone(run: Run) -> None:
    assert run("doctor", "--yes").code == output.COULD_NOT_RUN
    assert "option_alone" in run("doctor", "--dry-run").err


def test_a_machine_with_nothing_to_mend_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    doctor_fix.show([], [], output.console())

    assert capsys.readouterr().out == "Nothing is wrong that could be mended without you.\n"
