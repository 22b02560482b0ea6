"""Where the daemon was until it started: by boots and marks, never by a wall clock alone."""

from datetime import timedelta

import pytest

from kaalia.contracts import outages
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.lease import Anchor, Reading
from kaalia.contracts.maintenance import Window
from kaalia.contracts.outages import Owner, Pending
from kaalia.model.availability import Cause
from tests.support.clock import START

HOUR = timedelta(hours=1)
BEFORE = Anchor(START, 1000.0, "boot-1", seen_s=1600.0)
SAME_BOOT = Reading(START + HOUR, 4600.0, "boot-1")
NEXT_BOOT = Reading(START + HOUR, 20.0, "boot-2")


@pytest.mark.parametrize(
    ("stop", "reading", "cause", "begin_s"),
    [
        (None, SAME_BOOT, Cause.DAEMON, 1600.0),
        (("boot-1", 1650.0), SAME_BOOT, Cause.DAEMON, 1650.0),
        (("boot-1", 900.0), SAME_BOOT, Cause.DAEMON, 1600.0),
        (("boot-0", 1650.0), SAME_BOOT, Cause.DAEMON, 1600.0),
        (None, NEXT_BOOT, Cause.POWER, 1600.0),
        (("boot-1", 1650.0), NEXT_BOOT, Cause.PLANNED, 1650.0),
        (("boot-1", 900.0), NEXT_BOOT, Cause.POWER, 1600.0),
    ],
)
def test_cause(stop: tuple[str, float] | None, reading: Reading, cause: Cause, begin_s: float) -> None:
    found = outages.absence(BEFORE, stop, reading, Owner())

    assert found is not None
    assert (found.cause, found.begin_s) == (cause, begin_s)
    assert found.begin_at == START + timedelta(seconds=begin_s - 1000.0)


def test_the_first_start_comes_after_no_outage() -> None:
    assert outages.absence(None, None, SAME_BOOT, Owner()) is None


def test_a_stop_in_order_is_told_from_a_crash() -> None:
    crash = outages.absence(BEFORE, None, SAME_BOOT, Owner())
    stop = outages.absence(BEFORE, ("boot-1", 1650.0), SAME_BOOT, Owner())

    assert crash is not None
    assert stop is not None
    assert crash.detail == "the daemon ended without being told"
    assert stop.detail == "the daemon was stopped"


@pytest.mark.parametrize(
    ("owner", "cause"),
    [
        (Owner((Window(START, START + 2 * HOUR, START - HOUR),)), Cause.PLANNED),
        (Owner((Window(START + HOUR, START + 2 * HOUR, START - HOUR),)), Cause.POWER),
        (Owner(cordon=Cordon(START)), Cause.PLANNED),
        (Owner(cordon=Cordon(START + HOUR)), Cause.POWER),
        (Owner(cordon=Cordon(START, START + timedelta(minutes=1))), Cause.POWER),
    ],
)
def test_what_the_owner_announced_is_planned(owner: Owner, cause: Cause) -> None:
    found = outages.absence(BEFORE, None, NEXT_BOOT, owner)

    assert found is not None
    assert found.cause is cause


def test_within_a_boot_the_length_is_that_of_the_boot_whatever_the_clock_says() -> None:
    found = outages.absence(BEFORE, None, SAME_BOOT, Owner())
    assert found is not None
    back_at = START + 99 * HOUR

    assert outages.begun_at(Pending(found, "boot-1", 4600.0), back_at) == back_at - timedelta(seconds=3000)


def test_over_a_boot_it_began_when_the_machine_was_last_seen_and_never_after_its_end() -> None:
    found = outages.absence(BEFORE, None, NEXT_BOOT, Owner())
    assert found is not None
    over = Pending(found, "boot-2", 20.0)

    assert outages.begun_at(over, START + HOUR) == START + timedelta(seconds=600)
    assert outages.begun_at(over, START) == START


def test_a_busy_machine_has_not_slept() -> None:
    assert not outages.has_slept(75.0, 50.0)
    assert outages.has_slept(600.0, 15.0)


def test_conditions_name_the_part_that_is_down() -> None:
    book = {"engine_unavailable": Cause.DOCKER, "gpu_fallen_off_bus": Cause.DRIVER, "gpu_xid_79": Cause.DRIVER}

    assert outages.causes(["disk_low", "gpu_xid_79", "gpu_fallen_off_bus"], book) == {
        Cause.DRIVER: "gpu_fallen_off_bus"
    }
    assert outages.causes([], book) == {}
