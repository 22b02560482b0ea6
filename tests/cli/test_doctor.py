"""`kaalia doctor`: a person sees what is wrong, how bad, since when, by what evidence, what to do and what ends it."""

import json
from datetime import timedelta
from functools import partial

from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.store import conditions
from tests.cli.conftest import Daemon, Run
from tests.support.clock import START


def condition(code: str, severity: Severity, scope: str = "host", **more: str) -> Condition:
    return Condition(Problem(code, f"cannot [{code}]", **more), severity, "it is mended", scope)


SLOW = condition("slow", Severity.WARN)
LOST = condition("gpu_xid_79", Severity.CRITICAL, "GPU-6a1b", remedy="reboot [now]", evidence="NVRM: Xid")
UNSEEN = condition("unseen", Severity.UNKNOWN)


def told(rented: Daemon, *found: Condition, minutes: float = 0) -> None:
    at = START + timedelta(minutes=minutes)
    rented.write(partial(conditions.replace, source="kernel", found=found, now=at))


def test_a_machine_without_fault_says_so(run: Run, rented: Daemon) -> None:
    result = run("doctor", "--socket", str(rented.socket))

    assert (result.code, result.out, result.err) == (0, "Nothing is wrong.\n", "")
    assert run("doctor", "--history", "--socket", str(rented.socket)).out == "Nothing was wrong that is over.\n"


def test_the_worst_comes_first_with_all_that_is_known(run: Run, rented: Daemon) -> None:
    told(rented, SLOW, LOST, UNSEEN, minutes=-90)

    result = run("doctor", "--socket", str(rented.socket))

    assert result.code == 1
    assert result.out.splitlines()[:7] == [
        "critical cannot [gpu_xid_79] [gpu_xid_79]",
        "  part: GPU-6a1b",
        "  since: 2026-01-01 10:30 UTC, 90 min ago",
        "  seen: NVRM: Xid",
        "  meanwhile: this GPU is not rented out anew",
        "  remedy: reboot [now]",
        "  ends when: it is mended",
    ]
    assert [line.split()[0] for line in result.out.splitlines() if line and line[0] != " "] == [
        "critical",
        "unknown",
        "warn",
        "Wrong:",
    ]
    assert result.out.endswith("Wrong: 1 critical, 1 unknown, 1 warn.\n")


def test_a_warning_alone_is_no_reason_to_fail(run: Run, rented: Daemon) -> None:
    told(rented, SLOW)

    assert run("doctor", "--socket", str(rented.socket)).code == 0


def test_what_is_over_is_history(run: Run, rented: Daemon) -> None:
    told(rented, LOST, SLOW, minutes=-90)
    told(rented, SLOW, minutes=-60)

    result = run("doctor", "--history", "--socket", str(rented.socket))

    assert result.code == 0
    (head, line) = result.out.splitlines()
    assert head.split() == ["Ended", "Lasted", "Severity", "Condition", "Part", "What"]
    assert line.split() == [
        "60",
        "min",
        "ago",
        "30",
        "min",
        "critical",
        "gpu_xid_79",
        "GPU-6a1b",
        "cannot",
        "[gpu_xid_79]",
    ]


def test_a_program_gets_the_same(run: Run, rented: Daemon) -> None:
    told(rented, LOST, minutes=-90)
    told(rented, UNSEEN, minutes=-60)

    document = json.loads(run("doctor", "--json", "--socket", str(rented.socket)).out)

    assert [one["condition"]["problem"]["code"] for one in document["open"]] == ["unseen"]
    assert [one["condition"]["scope"] for one in document["past"]] == ["GPU-6a1b"]
    assert document["past"][0]["until"] == "2026-01-01T11:00:00Z"
    assert document["problems"] == []


def test_a_condition_is_explained_without_a_daemon(run: Run) -> None:
    result = run("doctor", "explain", "xid_79")

    assert result.code == 0
    assert [line.split(":")[0].strip() for line in result.out.splitlines()] == [
        "gpu_xid_79  critical",
        "means",
        "meanwhile",
        "remedy",
        "ends when",
        "source",
    ]
    assert "nothing is rented out anew" in run("doctor", "explain", "mount_absent").out
    assert json.loads(run("doctor", "explain", "disk_low", "--json").out)["severity"] == "warn"


def test_an_unknown_condition_is_answered_by_the_nearest(run: Run) -> None:
    result = run("doctor", "explain", "disklow")

    assert (result.code, result.out) == (2, "")
    assert "cannot explain 'disklow'" in result.err
    assert "disk_low" in result.err


def test_the_same_fault_of_many_parts_is_shown_once(run: Run, rented: Daemon) -> None:
    cards = [
        condition(
            "gpu_persistence_off", Severity.WARN, f"GPU-{n}", remedy=f"nvidia-smi -i GPU-{n} -pm 1", evidence="off"
        )
        for n in range(8)
    ]
    told(rented, *cards)

    lines = run("doctor", "--socket", str(rented.socket)).out.splitlines()

    assert lines[0] == "warn cannot [gpu_persistence_off], and 7 like it [gpu_persistence_off]"
    assert lines[1:9] == [f"  part: GPU-{n}" for n in range(8)]
    assert [line for line in lines if "remedy" in line] == ["  remedy: nvidia-smi -i PART -pm 1"]
    assert lines[-1] == "Wrong: 8 warn. kaalia doctor --fix can mend 1 of 1 faults."


def test_parts_that_differ_keep_their_own_evidence(run: Run, rented: Daemon) -> None:
    told(rented, *(condition("gpu_hot", Severity.WARN, f"GPU-{n}", evidence=f"{80 + n} degrees") for n in range(3)))

    lines = run("doctor", "--socket", str(rented.socket)).out.splitlines()

    assert lines[1:4] == ["  part: GPU-0: 80 degrees", "  part: GPU-1: 81 degrees", "  part: GPU-2: 82 degrees"]
    assert not any(line.startswith("  seen") for line in lines)


def test_many_faults_end_with_an_overview(run: Run, rented: Daemon) -> None:
    told(rented, *(condition(f"fault_{n}", Severity.WARN) for n in range(19)), LOST)

    result = run("doctor", "--socket", str(rented.socket))

    lines = result.out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("Severity"))
    assert lines[head + 1].split()[:3] == ["critical", "gpu_xid_79", "GPU-6a1b"]
    assert len([line for line in lines[head + 1 :] if line.startswith(("critical", "warn"))]) == 20
    assert max(map(len, lines)) <= 100
