"""What is seen is never older than what was seen before, and absence is always proven."""

from dataclasses import replace

from kaalia.reconciler.seen import Sight
from kaalia.reconciler.sights import Sights
from kaalia.runtime.base import Observed, ObservedState
from tests.support.clock import START

RUNNING = Observed(51, 1, "C.51", "c" * 64, ObservedState.RUNNING, started_at=START)
ENDED = replace(RUNNING, state=ObservedState.EXITED, finished_at=START, exit_code=0)


def test_nothing_is_absent_before_a_whole_list() -> None:
    sights = Sights()
    assert sights.of(51) is Sight.UNKNOWN

    sights.complete([], sights.mark(), busy=())

    assert sights.of(51) is Sight.ABSENT


def test_nothing_is_known_while_the_engine_is_lost() -> None:
    sights = Sights()
    sights.complete([RUNNING], sights.mark(), busy=())
    sights.lose()

    assert sights.of(51) is Sight.UNKNOWN
    assert sights.of(52) is Sight.UNKNOWN
    assert sights.present() == (RUNNING,)


def test_a_list_that_is_older_than_a_look_does_not_win() -> None:
    sights = Sights()
    sights.complete([], sights.mark(), busy=())
    mark = sights.mark()
    sights.saw(51, RUNNING, sights.mark())

    sights.complete([], mark, busy=())

    assert sights.of(51) == RUNNING


def test_a_list_says_nothing_about_a_contract_in_hand() -> None:
    sights = Sights()
    sights.complete([RUNNING], sights.mark(), busy=())

    sights.complete([], sights.mark(), busy={51})

    assert sights.of(51) == RUNNING


def test_an_event_makes_unsure_until_a_look_that_began_after_it() -> None:
    sights = Sights()
    sights.complete([RUNNING], sights.mark(), busy=())
    mark = sights.mark()
    sights.doubt(51)
    assert sights.of(51) is Sight.UNKNOWN

    sights.saw(51, RUNNING, mark)
    assert sights.of(51) is Sight.UNKNOWN
    assert sights.doubted == {51}

    sights.saw(51, ENDED, sights.mark())
    assert sights.of(51) == ENDED


def test_a_whole_list_answers_earlier_events() -> None:
    sights = Sights()
    sights.doubt(51)

    sights.complete([RUNNING], sights.mark(), busy=())

    assert sights.of(51) == RUNNING


def test_a_list_without_times_keeps_those_of_the_last_look_or_asks_for_one() -> None:
    sights = Sights()
    lean = replace(ENDED, started_at=None, finished_at=None, exit_code=None)
    sights.complete([lean], sights.mark(), busy=())
    assert sights.doubted == {51}

    sights.saw(51, ENDED, sights.mark())
    sights.complete([lean], sights.mark(), busy=())

    assert sights.of(51) == ENDED
    assert sights.doubted == set()


def test_a_proven_absence_is_one() -> None:
    sights = Sights()
    sights.complete([RUNNING], sights.mark(), busy=())

    sights.saw(51, None, sights.mark())

    assert sights.of(51) is Sight.ABSENT
    assert sights.present() == ()
