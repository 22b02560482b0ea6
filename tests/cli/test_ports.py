"""`kaalia ports`: the map in groups with reasons and remedies, an order that is followed, and programs' JSON."""

import json
import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from kaalia.cli import output
from kaalia.cli.commands import ports as ports_command
from kaalia.cli.commands import probe as probe_command
from kaalia.contracts import remedies
from kaalia.contracts.reach import Sight
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.model.reach import Outcome, PortMap, ProbeProgress
from kaalia.model.workload import Protocol
from kaalia.store import conditions, reach
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.contracts.test_reach import judged
from tests.support.clock import START

SILENT = Sight(Outcome.SILENT)
TCP, UDP = Protocol.TCP, Protocol.UDP


def flawed() -> PortMap:
    """Three ports are dropped; one is held."""
    dropped = {(40001, TCP): SILENT, (40003, UDP): SILENT, (40005, TCP): SILENT, (40005, UDP): SILENT}
    found = judged(dropped, held={(40007, UDP): 51}, hairpin=False)
    around = Surroundings(("192.168.1.20",), "192.168.1.20", "192.168.1.1")
    return replace(found, findings=remedies.findings(found, around))


def test_before_the_first_probe_it_says_how_to_begin(run: Run, rented: Daemon) -> None:
    result = run("ports", "--socket", str(rented.socket))

    assert result.code == 0
    assert "Ports 40000-40799 were never probed." in result.out
    assert "kaalia ports --probe" in result.out


def test_the_map_is_shown_in_groups_with_reasons_and_remedies(run: Run, rented: Daemon) -> None:
    rented.write(lambda tx: reach.put_map(tx, flawed()))

    out = run("ports", "--socket", str(rented.socket)).out

    lines = [line.split() for line in out.splitlines()]
    assert ["40000", "tcp", "open", "answered", "with", "this", "machine's", "proof"] in lines
    assert ["40001", "tcp", "filtered", "nothing", "came", "through"] in lines
    assert ["40006-40009", "tcp", "open", "answered", "with", "this", "machine's", "proof"] in lines
    assert ["40007", "udp", "held", "C.51:", "left", "alone"] in lines
    assert "8 of 10 TCP, 7 of 10 UDP" in out
    assert "cannot reach itself" in out
    assert "[ports_filtered]" in out
    assert "iptables -I INPUT -p tcp -m multiport --dports 40001,40005 -j ACCEPT" in out


def test_programs_get_the_whole_document(run: Run, rented: Daemon) -> None:
    rented.write(lambda tx: reach.put_map(tx, flawed()))
    rented.write(lambda tx: reach.put_progress(tx, ProbeProgress(START, 10, 40)))

    document = json.loads(run("ports", "--json", "--socket", str(rented.socket)).out)

    assert document["found"]["address"] == "203.0.113.7"
    assert document["found"]["spans"][0] == {
        "first": 40000,
        "last": 40000,
        "protocol": "tcp",
        "state": "open",
        "reason": "answered",
        "is_open": True,
        "detail": "",
    }
    assert document["found"]["findings"][0]["code"] == "ports_filtered"
    assert document["progress"]["total"] == 40


def carry_out(daemon: Daemon, outcome: list[str]) -> threading.Thread:
    """What the daemon's service does with an order; `outcome` ["fail"]: it does not succeed."""

    def work() -> None:
        time.sleep(0.3)
        problem = Problem("prober_unreachable", "cannot reach the prober http://p", "check it")

        def finish(tx: Transaction) -> None:
            assert reach.get_progress(tx) is not None
            reach.put_progress(tx, None)
            if outcome == ["fail"]:
                conditions.replace(tx, "prober", [Condition(problem, Severity.WARN, "later")], START)
            else:
                reach.put_map(tx, replace(flawed(), probed_at=START + timedelta(hours=1)))

        daemon.write(finish)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_order_is_followed_to_its_end(run: Run, rented: Daemon) -> None:
    rented.write(lambda tx: reach.put_map(tx, judged()))
    worker = carry_out(rented, [])
    result = run("ports", "--probe", "--socket", str(rented.socket))
    worker.join()

    assert (result.code, result.err) == (0, "")
    assert "8 of 10 TCP" in result.out


def test_an_order_that_fails_says_why(run: Run, rented: Daemon) -> None:
    rented.write(lambda tx: reach.put_map(tx, judged()))
    worker = carry_out(rented, ["fail"])
    result = run("ports", "--probe", "--socket", str(rented.socket))
    worker.join()

    assert result.code == 1
    assert "cannot reach the prober http://p [prober_unreachable]" in result.err
    shown = run("ports", "--socket", str(rented.socket)).out
    assert "prober_unreachable" in shown
    assert "10 of 10 TCP" in shown, "what was proven stays"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["serve", "--listen", "nowhere"], "listen_invalid"),
        (["serve", "--listen", "127.0.0.1:99999"], "listen_invalid"),
        (["serve", "--listen", "192.0.2.1:8090"], "address_invalid"),
        (["serve", "--for", "10.0.0.1/8"], "network_invalid"),
        (["serve", "--may-probe", "x"], "network_invalid"),
    ],
)
def test_a_prober_that_cannot_serve_says_why(capsys: pytest.CaptureFixture[str], args: list[str], code: str) -> None:
    assert output.run(probe_command.probe, args, "kaalia probe") == 2
    assert f"[{code}]" in capsys.readouterr().err


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_long_probe_is_waited_for_as_long_as_it_goes_on(
    run: Run, rented: Daemon, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    monkeypatch.setattr(ports_command, "STALL_S", 1.0)
    monkeypatch.setattr(ports_command, "LONG_S", 1)
    rented.write(lambda tx: reach.put_map(tx, judged()))

    def work() -> None:
        for done in range(1, 8):
            time.sleep(0.3)
            now = ProbeProgress(START, done if goes_on else 1, 40)
            rented.write(partial(reach.put_progress, progress=now))
        carry_out(rented, []).join()

    worker = threading.Thread(target=work)
    worker.start()
    result = run("ports", "--probe", "--socket", str(rented.socket))
    worker.join()

    assert "probing 800 ports takes 1 to 1 minutes" in result.err
    assert (result.code, "probe_unfinished" in result.err) == ((0, False) if goes_on else (1, True))
