"""Sums of traffic out of counters that may begin anew, the lines that tell them, and what is owed for them."""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import traffic
from kaalia.contracts.traffic import FASTEST_BYTES_PER_S, LINE_BYTES, Heard, Rate, Tally
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.model.traffic import Bytes, Counter
from kaalia.units import GB
from tests.support.clock import START

COUNTER = Counter(51, "10.214.0.0/28", "a1")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def tally(up: int = 0, down: int = 0) -> Tally:
    begun = traffic.begun(COUNTER, 1, START)
    return replace(begun, raw=Bytes(up, down), total=Bytes(up, down), before=Bytes(up, down))


def line(total: int, seconds: float, meter: Meter = Meter.INET_UP) -> Entry:
    return Entry(51, 1, meter, Edge.COUNT, at(seconds), total)


def test_readings_add_up_and_a_counter_that_was_set_to_zero_counts_from_there() -> None:
    one = tally()
    for second, raw in ((60, Bytes(100, 7)), (120, Bytes(150, 7)), (180, Bytes(20, 3)), (240, Bytes(20, 5))):
        one = traffic.counted(one, raw, at(second))
    assert one.total == Bytes(170, 12)
    other = traffic.renewed(one, replace(COUNTER, epoch="b2"), 2)
    assert traffic.counted(other, Bytes(1000, 1), at(300)).total == Bytes(1170, 13)


def test_renters_by_relays_are_counted_apart_and_summed_together() -> None:
    """A counter that was set to zero takes nothing from the other's sum, and is counted once."""
    one = traffic.counted(tally(), Bytes(100, 7), at(60), Bytes(40, 4))
    one = traffic.counted(one, Bytes(100, 7), at(120), Bytes(5, 4))
    one = traffic.counted(one, Bytes(1, 7), at(180), Bytes(6, 4))
    assert one.total == Bytes(147, 11)
    other = traffic.renewed(one, replace(COUNTER, epoch="b2"), 2)
    assert traffic.counted(other, Bytes(), at(240), Bytes(3, 3)).total == Bytes(150, 14)


SENT = st.tuples(st.just("sent"), st.integers(0, 10**12))
DEEDS = st.tuples(st.sampled_from(["read", "zeroed", "rebuilt", "told"]), st.just(0))


@given(st.lists(st.one_of(SENT, DEEDS), max_size=40))
def test_sums_never_shrink_nor_grow_beyond_what_was_sent_and_lose_at_resets_only(
    happened: list[tuple[str, int]],
) -> None:
    """`zeroed`: by somebody, unseen; `rebuilt`: by kaalia itself, without a reading before."""
    one, raw, sent, lost_at_most = tally(), 0, 0, 0
    for minute, (what, size) in enumerate(happened, 1):
        before = one
        if what == "sent":
            raw, sent = raw + size, sent + size
        elif what == "read":
            one = traffic.counted(one, Bytes(up=raw), at(60 * minute))
        elif what == "told":
            _, one = traffic.lines(one, at(60 * minute), "running")
        else:
            raw, lost_at_most = 0, lost_at_most + raw
            one = traffic.renewed(one, COUNTER, 1) if what == "rebuilt" else one
        assert before.total.up <= one.total.up <= sent
        assert before.told.up <= one.told.up <= one.total.up
    one = traffic.counted(one, Bytes(up=raw), at(9000))
    assert sent - lost_at_most <= one.total.up <= sent


def test_rates_are_those_of_the_last_readings_and_an_old_reading_says_nothing_of_now() -> None:
    one = traffic.counted(tally(), Bytes(600, 60), at(60))
    assert traffic.rate(one, at(61)) == Rate(10, 1)
    one = traffic.counted(one, Bytes(660, 60), at(120))
    assert traffic.rate(one, at(120)) == Rate(1, 0)
    near = traffic.counted(one, Bytes(721, 60), at(121))
    assert traffic.rate(near, at(121)) == Rate(121 / 61, 0), "of two readings near each other the earlier start stays"
    assert traffic.rate(near, at(1200)) is None
    idle = traffic.counted(near, Bytes(721, 60), at(181))
    assert traffic.rate(idle, at(1200)) == Rate(0, 0)
    assert traffic.rate(traffic.begun(COUNTER, 1, START), at(1)) is None
    back = traffic.counted(one, Bytes(700, 60), at(30))
    assert traffic.rate(back, at(30)) is None


def test_a_line_is_due_after_an_hour_after_many_bytes_and_at_rest() -> None:
    new = replace(tally(), total=Bytes(up=5))
    assert not traffic.is_due(new, at(60), rests=False)
    assert traffic.is_due(new, at(60), rests=True)
    assert traffic.is_due(new, at(3600), rests=False)
    assert traffic.is_due(replace(new, total=Bytes(down=LINE_BYTES)), at(60), rests=False)
    assert traffic.is_due(new, at(-60), rests=False), "a clock that went back keeps no line for ever"
    assert not traffic.is_due(tally(), at(9999), rests=True), "no news"


def test_lines_tell_sums_and_never_go_back_in_time() -> None:
    first, one = traffic.lines(replace(tally(), total=Bytes(5, 7)), at(60), "running")
    assert first == (replace(line(5, 60), reason="running"), replace(line(7, 60, Meter.INET_DOWN), reason="running"))
    again, two = traffic.lines(replace(one, total=Bytes(5, 9)), at(30), "stopped")
    assert again == (replace(line(9, 60, Meter.INET_DOWN), reason="stopped"),)
    assert traffic.lines(two, at(90), "stopped")[0] == ()


def test_a_line_adds_what_its_sum_has_more_than_the_last_one() -> None:
    assert traffic.news(None, line(5, 60)) == (Heard(5, at(60)), 5)
    assert traffic.news(Heard(5, at(60)), line(9, 120)) == (Heard(9, at(120)), 4)
    assert traffic.news(Heard(5, at(60)), line(9, 60)) == (Heard(9, at(60)), 4)
    assert traffic.news(Heard(5, at(60)), line(5, 120)) is None
    assert traffic.news(Heard(9, at(60)), line(5, 30)) is None, "an older copy of the books repeats itself"
    assert traffic.news(Heard(9, at(60)), line(5, 120)) == (Heard(5, at(120)), 0), "books that were lost count anew"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.data())
def test_lines_in_whatever_order_and_number_add_up_to_what_was_counted(sizes: list[int], data: st.DataObject) -> None:
    sums = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    told = [line(total, 60 * number) for number, total in enumerate(sums)]
    order = data.draw(st.lists(st.sampled_from(told), max_size=30))
    last, charged = None, 0
    for entry in (*order, told[-1]):
        found = traffic.news(last, entry)
        if found is not None:
            last, added = found
            charged += added
    assert charged == sums[-1]


def test_nothing_is_owed_for_what_went_after_the_end_nor_for_what_no_line_carries() -> None:
    assert traffic.owed(100, at(0), at(60), None) == 100
    assert traffic.owed(100, at(0), at(60), at(60)) == 100
    assert traffic.owed(100, at(0), at(60), at(15)) == 25
    assert traffic.owed(100, at(0), at(60), at(-5)) == 0
    assert traffic.owed(10**15, at(0), at(60), None) == 60 * FASTEST_BYTES_PER_S
    assert traffic.owed(GB, at(0), at(0), at(-1)) == 0
