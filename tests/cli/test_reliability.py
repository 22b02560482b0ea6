"""`kaalia reliability`: what is held of the machine, what each outage costs, and what another one would."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts import reliability as rules
from kaalia.model.availability import Cause, Outage, Record, Silence
from kaalia.store import availability
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.support.clock import START

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GONE = Silence(START - 5 * DAY, START - 5 * DAY + 2 * HOUR, True, cause=Cause.POWER)
RECORD = Record(START - 60 * DAY, 180.0, True, (GONE, Silence(START - 3 * DAY, START - 3 * DAY + HOUR, False)))


def fill(tx: Transaction) -> None:
    begin_at = GONE.begin_at + timedelta(seconds=20)
    for outage in (
        Outage(begin_at, GONE.end_at, Cause.POWER, True, "the machine went down"),
        Outage(START - DAY, START - DAY + timedelta(seconds=40), Cause.DAEMON, True, "the daemon was stopped"),
        Outage(START - timedelta(minutes=3), None, Cause.DOCKER, True, "engine_unavailable"),
    ):
        availability.begin(tx, outage, "boot-1", 0.0)
    figure = rules.figure(RECORD, START - timedelta(seconds=12))
    availability.heard(tx, START - timedelta(seconds=12), figure, RECORD, ())


def test_every_outage_with_its_cause_and_cost(run: Run, rented: Daemon) -> None:
    rented.write(fill)

    result = run("reliability", "--socket", str(rented.socket))

    assert (result.code, result.err) == (0, "")
    lines = [line.split("  ") for line in result.out.splitlines()]
    table = [[word.strip() for word in line if word.strip()] for line in lines]
    assert table[:3] == [
        ["Reliability", "0.9965"],
        ["Marketplace says", "0.9965, 12 s ago"],
        ["Watched", "the last 30 days count"],
    ]
    assert table[4] == ["Begin (UTC)", "Lasted", "Cause", "Rented", "Cost", "Forgotten", "What was seen"]
    assert table[5:] == [
        ["2026-01-01 11:57:00", "3 min, goes on", "docker", "yes", "-", "engine_unavailable"],
        ["2025-12-31 12:00:00", "40 s", "daemon", "yes", "-", "the daemon was stopped"],
        ["2025-12-29 12:00:00", "60 min", "unknown", "no", "0.0007", "2026-01-28", "the marketplace heard n…"],
        ["2025-12-27 12:00:20", "119 min 40 s", "power", "yes", "0.0028", "2026-01-26", "the machine went down"],
    ]


def test_the_same_for_programs(run: Run, rented: Daemon) -> None:
    rented.write(fill)

    document = json.loads(run("reliability", "--json", "--socket", str(rented.socket)).out)

    assert document["reliability"] == rules.figure(RECORD, START)
    assert document["record"]["silences"][0]["cause"] == "power"
    assert [line["line"]["outage"] and line["line"]["outage"]["cause"] for line in document["ledger"]] == [
        "power",
        None,
        "daemon",
        "docker",
    ]


@pytest.mark.parametrize("written", ["30m", "30 min", "1800s", "0.5h", "30minutes"])
def test_what_if(run: Run, rented: Daemon, written: str) -> None:
    rented.write(fill)

    result = run("reliability", "--if", written, "--socket", str(rented.socket))

    assert result.out.splitlines() == [
        "30 min now costs 0.0007.",
        "In a window announced 24 h before: 0.0001 (vastai schedule maint).",
        "While the machine is idle: 0.0003.",
        "Forgotten 2026-01-31 12:30 UTC.",
    ]


def test_what_if_for_programs(run: Run, rented: Daemon) -> None:
    rented.write(fill)

    told = json.loads(run("reliability", "--if", "1h30m", "--json", "--socket", str(rented.socket)).out)

    assert told["length_s"] == 5400
    assert told["cost"] == told["cost_rented"] == pytest.approx(1.5 / 720)
    assert told["cost_idle"] == pytest.approx(0.75 / 720)
    assert told["cost_planned"] == pytest.approx(0.3 / 720)


def test_nobody_counts_minutes(run: Run, rented: Daemon) -> None:
    rented.write(fill)

    result = run("reliability", "--if", "3m", "--socket", str(rented.socket))

    assert result.out.splitlines()[0] == "3 min now costs 0.0000."
    assert result.out.splitlines()[-1] == "Up to 180 s nobody counts."


@pytest.mark.parametrize("written", ["30", "x", "-5m", "0m", "31d", "5 fortnights", "1h garbage", "nan h", "1e9s"])
def test_what_is_no_time_is_named(run: Run, rented: Daemon, written: str) -> None:
    result = run("reliability", f"--if={written}", "--socket", str(rented.socket))

    assert result.code == 2
    assert f"cannot reckon with --if '{written}': it is no time above 0 and up to 30 days" in result.err
    assert "duration_invalid" in result.err


def test_a_machine_that_nobody_watches_says_so(run: Run, rented: Daemon) -> None:
    plain = run("reliability", "--socket", str(rented.socket))
    asked = run("reliability", "--if", "30m", "--socket", str(rented.socket))

    assert plain.code == 0
    assert "not known: the marketplace has told nothing yet" in plain.out
    assert plain.out.endswith("No outage is known.\n")
    assert asked.code == 2
    assert "reliability_unknown" in asked.err


def test_a_new_machine_is_told_so(run: Run, rented: Daemon) -> None:
    young = replace(RECORD, watched_from=START - 2 * HOUR, silences=())
    rented.write(lambda tx: availability.heard(tx, START, 0.95, young, ()))

    assert (
        "for 2 h; at first a new machine is given the benefit" in run("reliability", "--socket", str(rented.socket)).out
    )
