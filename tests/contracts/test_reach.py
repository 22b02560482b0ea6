"""From what a prober saw to the map: joined spans, ports that are held, and what was proven before."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import reach
from kaalia.contracts.reach import Facts, Sight
from kaalia.model.machine import PortRange, ProvenPorts
from kaalia.model.reach import Outcome, Place, PortMap, PortState, Reason
from kaalia.model.workload import Protocol
from tests.support.clock import START

TCP, UDP = Protocol.TCP, Protocol.UDP
RANGE = PortRange(40000, 40009)
FACTS = Facts(START, "http://prober", RANGE, None, "203.0.113.7", "203.0.113.7", {}, {}, ())


def answered(but: dict[Place, Sight] | None = None, port_range: PortRange = RANGE) -> dict[Place, Sight]:
    """Every port answers, but these."""
    good = {place: Sight(Outcome.ANSWERED, place[0]) for place in reach.places(port_range)}
    return {**good, **(but or {})}


def judged(but: dict[Place, Sight] | None = None, earlier: PortMap | None = None, **facts: Any) -> PortMap:
    return reach.judge(replace(FACTS, **facts), answered(but), earlier)


def table(found: PortMap) -> list[tuple[int, int, str, str, str]]:
    return [(one.first, one.last, one.protocol.value, one.state.value, one.reason.value) for one in found.spans]


def test_a_range_that_answers_is_one_span_for_each_protocol() -> None:
    found = judged()

    assert table(found) == [(40000, 40009, "tcp", "open", "answered"), (40000, 40009, "udp", "open", "answered")]
    assert found.proven == ProvenPorts("203.0.113.7", 10, 10, START)


def test_each_outcome_has_its_state_and_reason() -> None:
    outcomes = (Outcome.SILENT, Outcome.PROHIBITED, Outcome.REFUSED, Outcome.OTHER)
    found = judged({(40000 + at, TCP): Sight(outcome) for at, outcome in enumerate(outcomes)})

    assert table(found)[:5] == [
        (40000, 40000, "tcp", "filtered", "silent"),
        (40001, 40001, "tcp", "filtered", "prohibited"),
        (40002, 40002, "tcp", "closed", "refused"),
        (40003, 40003, "tcp", "closed", "other"),
        (40004, 40009, "tcp", "open", "answered"),
    ]
    assert (found.open_count(TCP), found.open_count(UDP)) == (6, 10)


def test_a_question_that_arrived_was_not_filtered_on_its_way_in() -> None:
    found = judged({(40001, UDP): Sight(Outcome.SILENT)}, arrived={(40001, UDP)})

    assert (40001, 40001, "udp", "filtered", "answer_lost") in table(found)


def test_udp_that_is_refused_now_and_then_and_never_answers_is_refused() -> None:
    outcomes = [Outcome.REFUSED, *[Outcome.SILENT] * 9]
    but = {(40000 + at, UDP): Sight(outcome) for at, outcome in enumerate(outcomes)}

    assert (40000, 40009, "udp", "closed", "refused") in table(judged(but))
    one_answers = judged({**but, (40009, UDP): Sight(Outcome.ANSWERED, 40009)})
    assert (40001, 40008, "udp", "filtered", "silent") in table(one_answers)


def test_a_shifted_port_tells_the_step() -> None:
    found = judged({(port, TCP): Sight(Outcome.ANSWERED, port + 100) for port in range(40000, 40010)})

    assert table(found)[0] == (40000, 40009, "tcp", "closed", "shifted")
    assert found.spans[0].detail == "+100"
    assert found.open_count(TCP) == 0


def test_a_port_of_a_contract_that_takes_connections_counts_only_when_it_was_proven_before() -> None:
    held = {(40003, TCP): 51, (40004, TCP): 51, (40005, UDP): 52}
    but = {(40003, TCP): Sight(Outcome.CONNECTED), (40004, TCP): Sight(Outcome.REFUSED)}
    found = judged(but, held=held)

    assert [(one.first, one.reason, one.is_open, one.detail) for one in found.spans if one.state is PortState.HELD] == [
        (40003, Reason.CONNECTS, False, "C.51"),
        (40004, Reason.REFUSED, False, "C.51"),
        (40005, Reason.NOT_ASKED, False, "C.52"),
    ]
    assert (found.open_count(TCP), found.open_count(UDP)) == (8, 9), "a prober can say of any port that it connects"
    again = judged(but, judged(), held=held)
    assert (again.open_count(TCP), again.open_count(UDP)) == (10, 10)


def test_what_was_proven_before_a_contract_came_still_counts_but_not_of_another_address() -> None:
    held = {(40004, TCP): 51, (40005, UDP): 52}
    but = {(40004, TCP): Sight(Outcome.REFUSED)}

    again = judged(but, judged(), held=held)
    moved = judged(but, judged(address="198.51.100.1"), held=held)

    assert (again.open_count(TCP), again.open_count(UDP)) == (10, 10)
    assert (moved.open_count(TCP), moved.open_count(UDP)) == (9, 9)
    assert judged(but, again, held=held).proven == again.proven, "it is handed on from map to map"


def test_a_port_that_was_given_up_for_a_renter_keeps_what_was_known() -> None:
    sights = answered()
    del sights[40007, TCP]

    assert reach.judge(FACTS, sights, None).open_count(TCP) == 9
    assert reach.judge(FACTS, sights, judged()).open_count(TCP) == 10


def test_a_program_of_the_host_is_named_and_its_port_does_not_count() -> None:
    found = judged(used={(40002, TCP): "used by nginx (pid 7)"})

    span = next(one for one in found.spans if one.reason is Reason.IN_USE)
    assert (span.first, span.state, span.is_open, span.detail) == (
        40002,
        PortState.HELD,
        False,
        "used by nginx (pid 7)",
    )
    assert found.open_count(TCP) == 9


@given(st.dictionaries(st.tuples(st.integers(40000, 40009), st.sampled_from(Protocol)), st.sampled_from(Outcome)))
def test_spans_cover_every_port_once_and_count_what_answered(outcomes: dict[Place, Outcome]) -> None:
    found = judged({place: Sight(outcome, place[0]) for place, outcome in outcomes.items()})

    covered = [(port, one.protocol) for one in found.spans for port in range(one.first, one.last + 1)]
    assert sorted(covered) == sorted(reach.places(RANGE))
    lost = sum(outcome is not Outcome.ANSWERED for outcome in outcomes.values())
    assert found.open_count(TCP) + found.open_count(UDP) == 20 - lost
    assert all(found.state_at(place) is not None for place in covered)
    assert found.state_at((1, TCP)) is None


def test_how_long_a_probe_takes() -> None:
    assert reach.duration_s(20) == (2, 36)
    quick, slow = reach.duration_s(64_511)
    assert 480 < quick < 500
    assert 900 < slow < 1200
    assert reach.duration_s(2048)[0] == 4, "so many are tried without a pause"


def test_ports_in_short() -> None:
    assert reach.in_short([5, 1, 2, 3, 9, 9]) == "1-3, 5, 9"
    assert reach.in_short([]) == ""


def test_where_nothing_arrived_and_an_own_firewall_may_be_why_nothing_is_proven_or_disproven() -> None:
    silent = {place: Sight(Outcome.SILENT) for place in reach.places(RANGE)}
    one = {**silent, (40003, TCP): Sight(Outcome.ANSWERED, 40003)}

    def proven(sights: dict[Place, Sight], **facts: Any) -> ProvenPorts | None:
        return reach.judge(replace(FACTS, **facts), sights, None).proven

    assert proven(silent) == ProvenPorts("203.0.113.7", 0, 0, START), "it is known to be on the way"
    assert proven(silent, may_be_own_firewall=True) is None
    assert proven({**silent, (40001, TCP): Sight(Outcome.REFUSED)}, may_be_own_firewall=True) is None
    assert proven(one, may_be_own_firewall=True) == ProvenPorts("203.0.113.7", 1, 0, START)
    assert proven(silent, may_be_own_firewall=True, arrived={(40001, TCP)}) is not None
    connects = {**silent, (40003, TCP): Sight(Outcome.CONNECTED)}
    assert proven(connects, may_be_own_firewall=True, held={(40003, TCP): 51}) is None
