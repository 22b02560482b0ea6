"""A fault that comes and goes between two looks is not told; one that is told does not end by one good look."""

from kaalia.errors import Problem
from kaalia.health.debounce import Debounce
from kaalia.model.health import Condition, Severity

TURNS = {"slow": 3}


def of(code: str, scope: str = "host", evidence: str = "") -> Condition:
    return Condition(Problem(code, "cannot", evidence=evidence), Severity.WARN, "later", scope)


def test_what_needs_no_patience_comes_and_goes_at_once() -> None:
    debounce = Debounce()

    assert debounce.look([of("off")], TURNS) == [of("off")]
    assert debounce.look([], TURNS) == []


def test_what_needs_patience_is_told_when_it_lasts_and_ends_when_it_is_gone() -> None:
    debounce = Debounce()
    looks = [1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0]

    told = [len(debounce.look([of("slow")] * seen, TURNS)) for seen in looks]

    assert told == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]


def test_the_newest_word_is_told_and_scopes_are_apart() -> None:
    debounce = Debounce()
    debounce.look([of("off", "md0"), of("off", "md1")], TURNS)

    assert debounce.look([of("off", "md1", evidence="newer")], TURNS) == [of("off", "md1", evidence="newer")]


def test_what_was_told_before_a_restart_needs_no_second_proof() -> None:
    debounce = Debounce([of("slow")])

    assert debounce.look([of("slow")], TURNS) == [of("slow")]


def test_what_was_not_looked_for_stays_as_it_was() -> None:
    debounce = Debounce([of("off")])
    debounce.look([of("off"), of("slow")], TURNS)
    debounce.look([of("slow")], TURNS, unseen={"off"})

    assert debounce.look([], TURNS, unseen={"off", "slow"}) == [of("off")]
    assert debounce.look([of("off"), of("slow")], TURNS) == [of("off"), of("slow")]
