"""A lease ends when it says, whatever the clocks of the machine do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.contracts import lease
from kaalia.contracts.lease import Anchor, LeaseTime, Reading, Standing
from tests.support.builders import build_contract

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)

DAEMON_STARTS_S = 8.0
"""After the kernel: the first look of a boot. Nobody weighs a clock before it."""


@dataclass
class Host:
    """A machine whose true time is known to nobody but the test; the anchor is recorded at each look."""

    true_at: datetime = START
    wall_error: timedelta = timedelta()
    boottime_s: float = 1000.0
    boots: int = 1
    synchronised: bool = False
    anchor: Anchor = field(init=False)

    def __post_init__(self) -> None:
        self.anchor = lease.advance(None, self.reading())

    def reading(self) -> Reading:
        return Reading(self.true_at + self.wall_error, self.boottime_s, f"boot-{self.boots}", self.synchronised)

    def look(self) -> LeaseTime:
        self.anchor = lease.advance(self.anchor, self.reading())
        return lease.time_of(self.anchor, self.reading())

    def hear(self, server_at: datetime | None = None) -> LeaseTime:
        self.anchor = lease.heard(self.anchor, self.reading(), server_at or self.true_at)
        return lease.time_of(self.anchor, self.reading())

    def passes(self, by: timedelta) -> None:
        """Also suspended: the boot-time clock counts that."""
        self.true_at += by
        self.boottime_s += by.total_seconds()

    def jump(self, by: timedelta) -> None:
        self.wall_error += by
        self.synchronised = False

    def reboot(self, off: timedelta, error: timedelta = timedelta()) -> None:
        self.true_at += off
        self.wall_error = error
        self.boottime_s = DAEMON_STARTS_S
        self.boots += 1
        self.synchronised = False

    def discipline(self) -> None:
        """NTP set the clock."""
        self.wall_error = timedelta()
        self.synchronised = True


@pytest.mark.parametrize("hours", [-30, -3, -1, 1, 3, 9000])
def test_a_jump_of_the_wall_clock_moves_nothing(hours: int) -> None:
    host = Host()
    host.passes(HOUR)
    host.jump(timedelta(hours=hours))

    assert host.look() == lease.certain(START + HOUR)
    assert lease.problem(host.anchor, host.reading()) is not None

    host.passes(HOUR)

    assert host.look() == lease.certain(START + 2 * HOUR)


def test_a_jump_counts_as_soon_as_the_kernel_calls_the_clock_synchronised() -> None:
    host = Host(wall_error=-3 * HOUR)
    host.discipline()

    assert host.look() == lease.certain(START)
    assert lease.problem(host.anchor, host.reading()) is None


@pytest.mark.parametrize(
    ("jump", "told", "expected"),
    [
        (3 * HOUR, 3 * HOUR, 3 * HOUR),
        (3 * HOUR, timedelta(), timedelta()),
        (-3 * HOUR, -3 * HOUR, -3 * HOUR),
        (-3 * HOUR, timedelta(), timedelta()),
        (3 * HOUR, 50 * HOUR, timedelta()),
        (timedelta(), 50 * HOUR, timedelta()),
        (timedelta(), -50 * HOUR, timedelta()),
        (timedelta(seconds=90), timedelta(), timedelta(seconds=90)),
    ],
)
def test_the_marketplaces_time_confirms_a_clock_and_never_makes_one(
    jump: timedelta, told: timedelta, expected: timedelta
) -> None:
    host = Host()
    host.jump(jump)

    assert host.hear(START + told) == lease.certain(START + expected)


def test_a_boot_whose_clock_fits_is_certain_at_once() -> None:
    host = Host()
    host.reboot(timedelta(seconds=40))

    assert host.look() == lease.certain(host.true_at)


def test_a_hardware_clock_that_is_ahead_is_believed_after_the_slack_only() -> None:
    host = Host()
    host.reboot(timedelta(minutes=3), error=2 * HOUR)

    first = host.look()
    assert not first.is_certain
    assert lease.standing(START + HOUR, first) is Standing.IN_DOUBT
    assert lease.standing(START + 5 * HOUR, first) is Standing.VALID
    assert lease.standing(START, first) is Standing.OVER

    host.passes(lease.SLACK - SECOND)
    assert not host.look().is_certain
    host.passes(SECOND)
    assert host.look() == lease.certain(host.true_at + 2 * HOUR)


def test_a_hardware_clock_that_is_ahead_ends_nothing_when_it_is_set_right_in_time() -> None:
    host = Host()
    host.reboot(timedelta(minutes=3), error=2 * HOUR)
    host.look()
    host.passes(timedelta(minutes=5))
    host.discipline()

    assert host.look() == lease.certain(host.true_at)


def test_a_clock_that_is_behind_the_record_is_never_believed_unconfirmed() -> None:
    host = Host()
    host.passes(HOUR)
    host.look()
    host.reboot(timedelta(minutes=3), error=-timedelta(days=9000))
    recorded = START + HOUR

    assert not host.look().is_certain
    assert lease.standing(recorded + timedelta(minutes=5), host.look()) is Standing.VALID

    host.passes(timedelta(minutes=9))
    found = host.look()
    assert lease.standing(recorded + timedelta(minutes=5), found) is Standing.IN_DOUBT, "it keeps its slack"
    assert lease.standing(recorded, found) is Standing.OVER, "what was over before stays so"

    host.passes(timedelta(minutes=7))
    assert lease.standing(recorded + timedelta(minutes=5), host.look()) is Standing.OVER
    assert not host.look().is_certain

    host.passes(timedelta(days=3))
    assert not host.look().is_certain
    assert host.hear() == lease.certain(host.true_at)


def test_the_time_of_a_doubtful_boot_is_not_lost_at_the_next_one() -> None:
    host = Host()
    host.reboot(timedelta(), error=-timedelta(days=9000))
    host.look()
    host.passes(5 * HOUR)
    host.look()
    host.reboot(timedelta(), error=-timedelta(days=9000))

    assert lease.standing(START + 4 * HOUR, host.look()) is Standing.OVER


def test_in_a_doubt_the_marketplace_cannot_turn_time_back() -> None:
    host = Host()
    host.passes(HOUR)
    host.look()
    host.reboot(timedelta(minutes=3), error=-timedelta(days=9))

    assert not host.hear(START).is_certain
    assert host.hear() == lease.certain(host.true_at)


def test_a_doubt_is_told_with_a_remedy() -> None:
    host = Host()
    host.reboot(timedelta(minutes=3), error=2 * HOUR)
    host.look()

    found = lease.problem(host.anchor, host.reading())

    assert found is not None
    assert found.code == "time_uncertain"
    assert found.remedy


@pytest.mark.parametrize(("hours", "deletable"), [(-1, False), (0, False), (47.9, False), (48, True), (1000, True)])
def test_data_of_an_expired_contract_are_deletable_after_48_hours(hours: float, deletable: bool) -> None:
    assert lease.is_deletable(build_contract(end_at=START), START + timedelta(hours=hours)) is deletable
    assert not lease.is_deletable(build_contract(end_at=None), START + timedelta(hours=hours))


SPANS = st.integers(0, 48 * 3600).map(lambda s: timedelta(seconds=s))
ERRORS = st.integers(-40 * 86400, 40 * 86400).map(lambda s: timedelta(seconds=s))
NOTHING = st.just(timedelta())
STEPS = st.one_of(
    *(st.tuples(st.just(kind), SPANS) for kind in ("live", "suspend", "reboot")),
    *(st.tuples(st.just(kind), ERRORS) for kind in ("jump", "reboot with a wrong clock", "be lied to")),
    *(st.tuples(st.just(kind), NOTHING) for kind in ("get NTP", "hear the marketplace")),
)


class Story(Host):
    """A host to which things happen, and what of them nobody could know."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.unknown_off = timedelta()
        """Times off of which the wall clock, the one witness, was lost before it was believed."""
        self.off = timedelta()
        self.fooled = False

    def step(self, kind: str, by: timedelta) -> None:
        steps: dict[str, Callable[[timedelta], object]] = {
            "live": self.live,
            "suspend": self.passes,
            "reboot": self.reboot,
            "jump": self.jump_in_doubt,
            "reboot with a wrong clock": self.reboot_wrong,
            "be lied to": self.be_lied_to,
            "get NTP": lambda _: self.discipline(),
            "hear the marketplace": lambda _: self.hear(),
        }
        steps[kind](by)
        self.look_closely()

    def look_closely(self) -> LeaseTime:
        """A doubt that ends by a wall clock that is wrong, and that nobody corrected: the one way to be fooled."""
        was_certain = self.anchor.doubted_since_s is None and self.anchor.boot_id == self.reading().boot_id
        time = self.look()
        self.fooled |= not was_certain and time.is_certain and self.wall_error != timedelta()
        if time.is_certain:
            self.off = timedelta()
        return time

    def reboot(self, off: timedelta, error: timedelta = timedelta()) -> None:
        super().reboot(off, error)
        self.off += off

    def jump_in_doubt(self, by: timedelta) -> None:
        self.unknown_off += self.off
        self.jump(by)

    def live(self, by: timedelta) -> None:
        for _ in range(40):
            self.passes(by / 40)
            self.look_closely()

    def reboot_wrong(self, error: timedelta) -> None:
        self.reboot(abs(error) / 100, error)
        self.unknown_off += self.off

    def be_lied_to(self, by: timedelta) -> None:
        """In a doubt the marketplace is the only witness there is; otherwise its word alone does nothing."""
        if self.look_closely().is_certain:
            self.hear(self.reading().wall_at + 2 * lease.TOLERANCE + abs(by))


@settings(max_examples=500, deadline=None)
@given(steps=st.lists(STEPS, max_size=25), lease_length=st.integers(1, 200 * 3600))
def test_a_lease_ends_neither_early_nor_late(steps: list[tuple[str, timedelta]], lease_length: int) -> None:
    """Jumps, suspends, reboots with a good or a bad hardware clock, NTP, a marketplace that is heard, silent or lying.

    Early: never by more than the clocks' tolerance. Late: never by more than the slack, but for the time that a machine
    with a wrong hardware clock was off, whose length nobody has told. Both unless a wrong hardware clock looked right,
    or stood unchallenged for the slack.
    """
    story, end_at = Story(), START + timedelta(seconds=lease_length)
    for kind, by in steps:
        story.step(kind, by)
        if story.fooled:
            return
        time = story.look()
        found = lease.standing(end_at, time)
        assert not time.is_certain or abs(time.latest_at - story.true_at) <= lease.TOLERANCE + story.unknown_off
        if story.true_at < end_at - lease.TOLERANCE:
            assert found is not Standing.OVER
        late = story.true_at - end_at - lease.TOLERANCE - lease.SLACK - story.unknown_off
        if late > timedelta() and story.boottime_s > DAEMON_STARTS_S + lease.SLACK.total_seconds():
            assert found is Standing.OVER or (found is Standing.IN_DOUBT and story.wall_error > timedelta())
