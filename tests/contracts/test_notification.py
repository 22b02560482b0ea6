"""What the owner is told, and when: each of the seven events, nothing twice, and nothing that is over at once."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.config_notify import EventName
from kaalia.contracts.maintenance import Window
from kaalia.contracts.notification import (
    QUIET,
    Event,
    Facts,
    Noticed,
    State,
    Watch,
    decide,
    next_try_s,
    occurrences,
)
from kaalia.contracts.offer import Listing
from kaalia.errors import Problem
from kaalia.model.health import OWN_CHANNELS, Condition, OpenCondition, Severity
from kaalia.model.standing import Gap, RenterReport
from kaalia.notify import catalogue
from tests.support.clock import START

WATCH = catalogue.read()
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def wrong(
    code: str, severity: Severity = Severity.CRITICAL, since: datetime = START, source: str = "gpu"
) -> OpenCondition:
    return OpenCondition(Condition(Problem(code, f"cannot {code}", "mend it"), severity, "mended"), source, since)


class Owner:
    """What he was told, turn by turn."""

    def __init__(self, watch: Watch = WATCH) -> None:
        self.watch = watch
        self.noticed: Mapping[str, Noticed] = {}

    def told(self, facts: Facts, now: datetime) -> list[str]:
        decision = decide(occurrences(facts, self.watch, now), self.noticed, now)
        kept = {key: one for key, one in self.noticed.items() if key not in decision.forget}
        self.noticed = {**kept, **decision.noticed}
        return [f"{one.occurrence.event}.{one.state}" for one in decision.tell]


def test_the_configuration_names_the_same_events() -> None:
    assert set(get_args(EventName)) == {event.value for event in Event} - {Event.TEST}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(conditions=(wrong("gpu_xid_79"),)), "issue_detected.began"),
        (Facts(conditions=(wrong("kernel_log_unreadable", Severity.UNKNOWN),)), "issue_detected.began"),
        (Facts(conditions=(wrong("disk_low", Severity.WARN),)), "disk_low.began"),
        (Facts(conditions=(wrong("canary_gpu_failed"),)), "verification_failed.began"),
        (Facts(verification="deverified", verification_at=START), "verification_failed.began"),
        (
            Facts(verification="unverified", verified_before="verified", verification_at=START),
            "verification_failed.began",
        ),
        (Facts(reports=(RenterReport(7, "slow", "PCIe x1", START),)), "reported_by_renter.once"),
        (Facts(listing=Listing(Decimal(1), end_at=START + timedelta(days=6))), "listing_ends.once"),
        (Facts(windows=(Window(START + HOUR * 5, START + HOUR * 6, START),)), "maintenance_confirmed.once"),
        (Facts(heard_at=START - 2 * MINUTE), "machine_offline.began"),
        (Facts(heard_at=START, gap=Gap(START - HOUR, START)), "machine_offline.once"),
    ],
)
def test_each_event_is_told_once(facts: Facts, expected: str) -> None:
    owner, now = Owner(), START + MINUTE

    assert owner.told(facts, now) == [expected]
    assert owner.told(facts, now + HOUR / 60 / 60) == []
    assert owner.told(replace(facts, heard_at=None), now + MINUTE) in ([], ["machine_offline.over"])


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(conditions=(wrong("gpu_slow", Severity.WARN),)),
        Facts(conditions=(wrong("canary_pending", Severity.UNKNOWN),)),
        Facts(conditions=(wrong("notification_failing", source=OWN_CHANNELS),)),
        Facts(conditions=(wrong("marketplace_unreachable"),), heard_at=START + MINUTE),
        Facts(conditions=(wrong("gpu_xid_79", since=START + 5 * MINUTE),)),
        Facts(verification="unverified", verification_at=START),
        Facts(verification="verified", verified_before="deverified", verification_at=START),
        Facts(reports=(RenterReport(7, "old", "", START - timedelta(days=9)),)),
        Facts(listing=Listing(Decimal(1), end_at=START + timedelta(days=8))),
        Facts(listing=Listing(Decimal(1), end_at=START - HOUR)),
        Facts(listing=Listing(Decimal(1), rolling_duration_s=86400.0, rolled_at=START)),
        Facts(windows=(Window(START - HOUR * 5, START - HOUR, START - HOUR * 9),)),
        Facts(heard_at=START),
    ],
)
def test_nothing_is_told_of_what_is_no_event(facts: Facts) -> None:
    assert Owner().told(facts, START + MINUTE) == []


def test_warnings_are_issues_only_where_the_owner_wants_them() -> None:
    facts = Facts(conditions=(wrong("gpu_slow", Severity.WARN),))

    assert Owner(replace(WATCH, with_warnings=True)).told(facts, START + MINUTE) == ["issue_detected.began"]


def test_an_end_is_told_and_what_comes_back_soon_is_told_after_an_hour() -> None:
    owner, bad, well = Owner(), Facts(conditions=(wrong("gpu_lost"),)), Facts()
    at = START + MINUTE

    assert owner.told(bad, at) == ["issue_detected.began"]
    assert owner.told(well, at + MINUTE) == ["issue_detected.over"]
    again = Facts(conditions=(wrong("gpu_lost", since=at + 2 * MINUTE),))
    assert owner.told(again, at + 4 * MINUTE) == []
    assert owner.told(well, at + 5 * MINUTE) == []
    assert owner.told(again, at + 6 * MINUTE) == []
    assert owner.told(again, at + QUIET) == ["issue_detected.began"]
    assert owner.told(well, at + QUIET + MINUTE) == ["issue_detected.over"]


def test_offline_is_told_when_it_begins_and_with_its_length_when_it_is_over() -> None:
    owner, silent_at = Owner(), START
    away = Facts(heard_at=silent_at)
    back_at = START + 10 * MINUTE

    assert owner.told(away, START + 4 * MINUTE) == ["machine_offline.began"]
    assert owner.told(away, START + 9 * MINUTE) == []
    back = Facts(heard_at=back_at, gap=Gap(silent_at, back_at))
    assert owner.told(back, back_at) == ["machine_offline.over"]
    assert owner.told(back, back_at + MINUTE) == []


def test_what_a_stranger_wrote_is_one_line_of_bearable_length() -> None:
    report = RenterReport(1, "x\r\nBcc: all@example.com", "\x1b[2J" + "y" * 5000, START)

    (one,) = occurrences(Facts(reports=(report,)), WATCH, START)

    assert one.message.isprintable()
    assert len(one.message) < 1100


def test_a_channel_is_left_alone_for_longer_and_longer() -> None:
    waits = [next_try_s(failures) for failures in range(1, 20)]

    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (10, 3600)


@given(st.lists(st.tuples(st.integers(1, 3000), st.sets(st.sampled_from("abc"))), max_size=40))
def test_began_and_over_alternate_and_began_comes_once_an_hour_at_most(turns: list[tuple[int, set[str]]]) -> None:
    owner, now, since = Owner(), START, dict[str, datetime]()
    open_, told_at = dict[str, bool](), dict[str, datetime]()
    for seconds, codes in turns:
        now += timedelta(seconds=seconds)
        since = {code: since.get(code, now) for code in codes}
        facts = Facts(conditions=tuple(wrong(code, since=at) for code, at in since.items()))
        decision = decide(occurrences(facts, WATCH, now), owner.noticed, now)
        owner.told(facts, now)
        for one in decision.tell:
            code = one.occurrence.code
            assert open_.get(code, False) is (one.state is State.OVER)
            open_[code] = one.state is State.BEGAN
            if one.state is State.BEGAN:
                assert code not in told_at or now - told_at[code] >= QUIET
                told_at[code] = now


def hidden(code: str, *by: str) -> OpenCondition:
    condition = Condition(Problem(code, f"cannot {code}", "mend it"), Severity.CRITICAL, "mended", hidden_by=by)
    return OpenCondition(condition, "gpu", START)


def test_of_what_is_the_symptom_of_another_only_the_cause_is_told() -> None:
    owner = Owner()
    both = Facts(conditions=(hidden("gpu_lost", "gpu_xid_79"), wrong("gpu_xid_79")))

    assert owner.told(both, START + HOUR) == ["issue_detected.began"]
    assert set(owner.noticed) == {"condition gpu_xid_79 host"}
    left = Facts(conditions=(hidden("gpu_lost", "gpu_xid_79"),))
    assert owner.told(left, START + 2 * HOUR) == ["issue_detected.began", "issue_detected.over"]


def test_what_turns_out_to_be_a_symptom_is_not_told_as_over() -> None:
    owner = Owner()
    lost = hidden("gpu_lost", "gpu_xid_79")

    assert owner.told(Facts(conditions=(lost,)), START + HOUR) == ["issue_detected.began"]
    assert owner.told(Facts(conditions=(lost, wrong("gpu_xid_79"))), START + 2 * HOUR) == ["issue_detected.began"]
    assert owner.told(Facts(), START + 3 * HOUR) == ["issue_detected.over", "issue_detected.over"]


def test_what_came_and_went_is_not_remembered_for_ever() -> None:
    """A line that breaks off every hour for a month leaves no row for each time."""
    owner = Owner()
    for hour in range(0, 60, 2):
        silent_at, back_at = START + hour * HOUR, START + (hour + 1) * HOUR
        assert owner.told(Facts(heard_at=silent_at), back_at) == ["machine_offline.began"]
        assert owner.told(Facts(heard_at=back_at, gap=Gap(silent_at, back_at)), back_at) == ["machine_offline.over"]

    assert len(owner.noticed) <= 3
