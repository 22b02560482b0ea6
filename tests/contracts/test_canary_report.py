"""What the test container says, held against what it was given."""

import errno
from dataclasses import replace

import pytest

from kaalia.contracts import canary_report as words
from kaalia.contracts.canary import Target
from kaalia.contracts.canary_report import Given
from kaalia.model.selftest import Outcome
from kaalia.model.workload import Protocol
from kaalia.units import MIB

TARGET = Target("market.example", "203.0.113.9", 443)
GIVEN = Given(2, {0: "GPU-a", 1: "GPU-b"}, False, 32 * MIB, TARGET, "10.214.0.2")
SAID = f"""address eth0 10.214.0.2
name 0
connect 0
wrote {31 * MIB} {errno.EDQUOT}
gpu nvidia0 195 0 try
gpu nvidia0 195 0 0
gpu nvidia1 195 1 try
gpu nvidia1 195 1 0
done
"""


def said(*changes: tuple[str, str]) -> words.Report:
    text = SAID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return words.read(text)


def test_a_sound_machine_passes() -> None:
    report = said()

    found = [words.gpu(report, GIVEN), words.network(report, GIVEN), words.quota(report, GIVEN)]

    assert [one.outcome for one in found] == [Outcome.PASSED] * 3
    assert found[0].words == "opened /dev/nvidia0, /dev/nvidia1, and sees no other"
    assert found[1].words == "has its address 10.214.0.2, finds market.example, reaches 203.0.113.9:443"
    assert found[2].words == "wrote 31 MiB of 32, then was refused (EDQUOT)"


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("gpu nvidia1 195 1 0", f"gpu nvidia1 195 1 {errno.EPERM}", "/dev/nvidia1 cannot be opened: EPERM"),
        (
            "nvidia1 195 1",
            "nvidia3 195 3",
            "was given 2 GPUs (/dev/nvidia0, /dev/nvidia1) and sees /dev/nvidia0, /dev/nvidia3",
        ),
        ("done", "gpu nvidia2 195 2 0\ndone", "sees /dev/nvidia0, /dev/nvidia1, /dev/nvidia2"),
        ("gpu nvidia1 195 1 0\ndone", "", "opening /dev/nvidia1 does not come back"),
        ("gpu nvidia0 195 0 try\ngpu nvidia0 195 0 0\ngpu nvidia1 195 1 try\ngpu nvidia1 195 1 0\n", "", "sees none"),
    ],
)
def test_other_gpus_than_given_fail(old: str, new: str, seen: str) -> None:
    found = words.gpu(said((old, new)), GIVEN)

    assert found.outcome is Outcome.FAILED
    assert seen in found.words


SHUT = f"gpu nvidia1 195 1 {errno.EPERM}"


@pytest.mark.parametrize(
    ("changes", "of_gpus"),
    [
        ([("gpu nvidia1 195 1 0", SHUT)], ("GPU-b",)),
        ([("gpu nvidia1 195 1 try\ngpu nvidia1 195 1 0\n", "")], ("GPU-b",)),
        ([("gpu nvidia1 195 1 0", SHUT), ("gpu nvidia0 195 0 try\ngpu nvidia0 195 0 0\n", "")], ("GPU-a", "GPU-b")),
        ([("nvidia1 195 1", "nvidia3 195 3")], ()),  # it sees one that it was not given
        ([("gpu nvidia1 195 1 0", SHUT), ("done", "gpu nvidia2 195 2 0\ndone")], ()),
        ([("gpu nvidia1 195 1 0\ndone", "")], ()),  # opening one hangs
        ([("done\n", "")], ()),
    ],
)
def test_the_gpus_that_failed_are_named_where_that_is_known(
    changes: list[tuple[str, str]], of_gpus: tuple[str, ...]
) -> None:
    found = words.gpu(said(*changes), GIVEN)

    assert (found.outcome, found.gpu_uuids) == (Outcome.FAILED, of_gpus)
    assert words.gpu(said(*changes), replace(GIVEN, uuids=None)).gpu_uuids == ()


def test_where_the_driver_names_no_nodes_their_number_counts() -> None:
    blind = replace(GIVEN, uuids=None)

    assert words.gpu(said(("nvidia1 195 1", "nvidia3 195 3")), blind).outcome is Outcome.PASSED
    assert words.gpu(said(), replace(blind, gpu_count=1)).outcome is Outcome.FAILED


def test_no_gpu_and_a_simulated_driver_prove_nothing() -> None:
    none = words.gpu(said(), replace(GIVEN, gpu_count=0, note="this machine has no GPU"))
    simulated = words.gpu(words.read("done"), replace(GIVEN, is_simulated=True))

    assert (none.outcome, none.words) == (Outcome.SKIPPED, "this machine has no GPU")
    assert simulated.outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("address eth0 10.214.0.2\n", "", "it has: none"),
        ("10.214.0.2", "10.214.0.3", "it has: 10.214.0.3"),
        ("name 0", "name -3", "cannot find market.example"),
        (
            "connect 0",
            f"connect {errno.ETIMEDOUT}",
            "cannot reach 203.0.113.9:443, which this machine reaches: ETIMEDOUT",
        ),
        ("connect 0\n", "", "no answer"),
    ],
)
def test_a_network_that_does_not_lead_out_fails(old: str, new: str, seen: str) -> None:
    found = words.network(said((old, new)), GIVEN)

    assert found.outcome is Outcome.FAILED
    assert seen in found.words


def test_what_the_machine_itself_does_not_reach_proves_nothing_against_it() -> None:
    silent = said(("connect 0", f"connect {errno.ETIMEDOUT}"))

    assert words.network(silent, GIVEN, "this machine itself does not reach it").outcome is Outcome.PASSED
    assert words.network(silent, replace(GIVEN, target=Target(why_not="no way out"))).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        (f"{31 * MIB} {errno.EDQUOT}", f"{30 * MIB} {errno.ENOSPC}", Outcome.PASSED),
        (f"{31 * MIB} {errno.EDQUOT}", f"{48 * MIB} 0", Outcome.FAILED),
        (f"{31 * MIB} {errno.EDQUOT}", f"{40 * MIB} {errno.ENOSPC}", Outcome.FAILED),
        (f"{31 * MIB} {errno.EDQUOT}", f"{3 * MIB} {errno.ENOSPC}", Outcome.FAILED),
        (f"{31 * MIB} {errno.EDQUOT}", f"{20 * MIB} {errno.EIO}", Outcome.FAILED),
        (f"wrote {31 * MIB} {errno.EDQUOT}\n", "", Outcome.FAILED),
    ],
)
def test_a_write_past_the_size_must_be_refused_and_one_within_not(old: str, new: str, outcome: Outcome) -> None:
    assert words.quota(said((old, new)), GIVEN).outcome is outcome


def test_where_no_size_is_enforced_none_is_proven() -> None:
    assert words.quota(said(), replace(GIVEN, quota_bytes=0)).outcome is Outcome.SKIPPED


def test_ports_need_both_answers() -> None:
    places = {Protocol.TCP: 40001, Protocol.UDP: 40002}

    assert words.ports({Protocol.TCP: "", Protocol.UDP: ""}, places).outcome is Outcome.PASSED
    broken = words.ports({Protocol.TCP: "", Protocol.UDP: "no answer"}, places)
    assert (broken.outcome, broken.words) == (Outcome.FAILED, "40001/tcp: answered; 40002/udp: no answer")
    assert words.ports({}, {}).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "noise", ["gpu", "gpu x y z w", "wrote many 0", "address", "\x00\xff", "name zero", "gpu a 1 2 " + "9" * 99]
)
def test_strange_lines_are_left_out(noise: str) -> None:
    assert words.read(f"{noise}\ndone\n") == words.Report(True, {})
