"""`kaalia drain`, as a person sees it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.client import LocalClient
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.model.workload import WorkloadState
from kaalia.store import contracts, maintenance, workloads
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.support.builders import build_contract, build_status
from tests.support.clock import START

DAY = timedelta(days=1)


def obey(tx: Transaction) -> None:
    """What the reconciler does."""
    stored = maintenance.get_cordon(tx)
    assert stored is not None
    maintenance.obey_cordon(tx, stored.cordon, START)


def place(daemon: Daemon, until_at: Any = None) -> None:
    daemon.write(lambda tx: maintenance.put_cordon(tx, Cordon(START, until_at)))
    daemon.write(obey)


def end(daemon: Daemon, contract_id: int = 51) -> None:
    daemon.write(lambda tx: workloads.put(tx, build_status(contract_id, state=WorkloadState.ENDED)))


def lift(daemon: Daemon) -> None:
    """From another terminal."""
    LocalClient(daemon.socket).uncordon()


@contextmanager
def soon(*doings: Callable[[], None]) -> Any:
    """Do it while the command waits."""

    def run() -> None:
        for do in doings:
            time.sleep(1.2)
            do()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_drain_waits_tells_what_holds_the_machine_and_ends_when_it_is_vacant(run: Run, rented: Daemon) -> None:
    stopping = build_status(51, state=WorkloadState.STOPPING)
    doings = (
        lambda: rented.write(obey),
        lambda: rented.write(lambda tx: workloads.put(tx, stopping)),
        lambda: end(rented),
    )
    with soon(*doings):
        result = run("drain", "--socket", str(rented.socket))

    assert result.code == 0
    assert result.out.splitlines() == [
        "Draining until the owner lifts it: nothing new is admitted since 2026-01-01 12:00 UTC.",
        "Held by 1 contract.",
        "ID  Kind       Renter sees  Ends                  Left",
        "51  on_demand  running      2026-01-11 12:00 UTC  10 d",
        "Waiting until nothing holds the machine. Ctrl-C ends the waiting; the cordon stays.",
        "Contract 51 is stopping.",
        "Contract 51 holds it no more, 0 left.",
        "Vacant. The cordon stands; lift it with: kaalia drain --cancel",
    ]
    assert run("status", "--socket", str(rented.socket)).out.count("draining until the owner lifts it") == 1


def test_a_vacant_machine_is_drained_at_once(run: Run, daemon: Daemon) -> None:
    result = run("drain", "--socket", str(daemon.socket))

    assert result.code == 0
    assert "Vacant." in result.out


def test_a_date_tells_who_is_gone_by_then(run: Run, rented: Daemon) -> None:
    rented.write(
        lambda tx: contracts.upsert(tx, build_contract(53, kind=ContractKind.INTERRUPTIBLE, end_at=None), START)
    )
    rented.write(lambda tx: workloads.put(tx, build_status(53, state=WorkloadState.STOPPED)))
    with soon(lambda: lift(rented)):
        result = run("drain", "--until", "2026-01-20", "--socket", str(rented.socket))

    assert result.code == 1
    assert "Draining until 2026-01-20 00:00 UTC: nothing new is admitted" in result.out
    assert "Held by 2 contracts." in result.out
    assert "53  interruptible  stopped      open" in result.out
    told = "Before 2026-01-20 00:00 UTC end: 51. Past 2026-01-20 00:00 UTC go on, unless their renters end them: 53."
    assert told in result.out
    assert "The cordon was lifted before the machine was vacant" in result.out


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-20 14:30", "2026-01-20T14:30:00Z"),
        ("2026-01-20T14:30+02:00", "2026-01-20T12:30:00Z"),
        ("1768919400", "2026-01-20T14:30:00Z"),
    ],
)
def test_dates_may_be_written_in_several_ways(run: Run, daemon: Daemon, text: str, at: str) -> None:
    result = run("drain", "--until", text, "--json", "--socket", str(daemon.socket))

    assert result.code == 0
    assert json.loads(result.out)["cordon"]["until_at"] == at


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--until", "soon"], 2, "cannot drain until 'soon': it is no date [drain_until_invalid]"),
        (["--until", "2025-01-01"], 1, "cannot drain until 2025-01-01 00:00 UTC: it is past [drain_until_past]"),
        (["--until", "2026-02-01", "--cancel"], 2, "exclude each other"),
        (["--status", "--cancel"], 2, "exclude each other"),
    ],
)
def test_wrong_wishes_are_refused(run: Run, daemon: Daemon, args: list[str], code: int, says: str) -> None:
    result = run("drain", *args, "--socket", str(daemon.socket))

    assert result.code == code
    assert says in result.err
    assert "Not draining" in run("drain", "--status", "--socket", str(daemon.socket)).out


def test_status_shows_without_waiting(run: Run, rented: Daemon) -> None:
    place(rented, START + DAY)
    held = run("drain", "--status", "--socket", str(rented.socket))
    end(rented)
    vacant = run("drain", "--status", "--socket", str(rented.socket))

    assert held.code == 1
    assert "Past 2026-01-02 12:00 UTC go on, unless their renters end them: 51." in held.out
    assert vacant.code == 0
    assert vacant.out.splitlines()[-1] == "Vacant."


def test_cancel_lifts_the_cordon(run: Run, rented: Daemon) -> None:
    place(rented)
    first, second = (run("drain", "--cancel", "--socket", str(rented.socket)) for _ in range(2))

    assert (first.code, second.code) == (0, 0)
    assert first.out == "The cordon is lifted: new rentals are admitted again.\n"
    assert second.out == "There was no cordon: new rentals are admitted.\n"


@pytest.mark.parametrize("args", [["--status"], ["--cancel"], []])
def test_json_is_one_document(run: Run, daemon: Daemon, args: list[str]) -> None:
    found = json.loads(run("drain", *args, "--json", "--socket", str(daemon.socket)).out)

    assert set(found) == {"as_of", "cordon", "is_in_force", "is_vacant", "holders"}


def test_ctrl_c_leaves_the_cordon_and_says_so(run: Run, rented: Daemon) -> None:
    argv = [sys.executable, "-m", "kaalia.cli.main", "drain", "--socket", str(rented.socket)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(5)]
        assert seen[-1].startswith("Waiting")
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()

    assert child.returncode == 1
    assert rest == (
        "Not waiting any longer: held by 1 contract. The cordon stands, nothing new is admitted; "
        "lift it with: kaalia drain --cancel\n"
    )
    assert "Draining" in run("drain", "--status", "--socket", str(rented.socket)).out


def test_without_a_daemon_it_says_so(run: Run, tmp_path: Path) -> None:
    for args in ([], ["--status"], ["--cancel"]):
        result = run("drain", *args, "--socket", str(tmp_path / "none"))
        assert result.code == 2
        assert "[daemon_not_running]" in result.err


def test_status_names_coming_maintenance(run: Run, rented: Daemon) -> None:
    window = Window(START + DAY, START + DAY * 1.5, START, "power")
    rented.write(lambda tx: maintenance.put_windows(tx, [window]))

    shown = run("status", "--socket", str(rented.socket))

    assert shown.code == 0
    assert "from 2026-01-02 12:00 UTC to 2026-01-03 00:00 UTC (power)" in shown.out


def test_the_help_has_examples(run: Run) -> None:
    told = " ".join(run("drain", "--help").out.replace("│", " ").split())

    for word in (
        "kaalia drain && reboot",
        "--until '2026-12-01 14:00'",
        "Exit codes: 0 vacant",
        "the owner's default job",
    ):
        assert word in told
