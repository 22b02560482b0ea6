import os
import subprocess
import sys

import pytest

from kaalia import __version__
from tests.cli.conftest import Run

ALL = ["status", "report", "contracts", "ledger", "ports", "daemon", "enroll", "probe", "relay", "marketplace"]


def test_version(run: Run) -> None:
    assert run("--version").out == f"kaalia {__version__}\n"


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")

    assert result.code == 0
    assert all(name in result.out for name in ALL)
    assert "Exit codes" in result.out


@pytest.mark.parametrize("name", ["status", "report", "contracts", "ledger", "ports", "daemon"])
def test_help_of_a_command_has_an_example(run: Run, name: str) -> None:
    result = run(name, "--help")

    assert result.code == 0
    assert "Example" in result.out


@pytest.mark.parametrize("args", [["statsu"], ["contracts", "many"], ["status", "--nope"], []], ids=" ".join)
def test_wrong_usage_ends_with_2(run: Run, args: list[str]) -> None:
    result = run(*args)

    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "args",
    [["enroll"], ["probe", "serve"], ["relay", "serve"], ["marketplace", "serve"], ["marketplace", "user", "add"]],
    ids=" ".join,
)
def test_programs_of_their_own_print_their_own_help(args: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kaalia.cli.main", *args, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"TERM": "dumb"},
    )

    assert f"kaalia {' '.join(args)}" in done.stdout
    assert "kaalia.cli" not in done.stdout


def test_a_reader_that_goes_away_is_no_failure() -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m kaalia.cli.main --help | true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_asking_the_daemon_imports_nothing_heavy() -> None:
    heavy = ("sqlalchemy", "aiohttp", "docker", "cryptography", "asyncio")
    script = f"import sys, kaalia.cli.main; print([name for name in {heavy!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
