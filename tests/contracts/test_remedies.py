"""What a map means: the cause is named once, with the line that mends it; a sound map has nothing to say."""

from dataclasses import replace
from typing import Any

import pytest

from kaalia.contracts import reach, remedies
from kaalia.contracts.reach import Sight
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import Problem
from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome, Place, PortMap
from kaalia.model.workload import Protocol
from tests.contracts.test_reach import FACTS, RANGE, judged

TCP, UDP = Protocol.TCP, Protocol.UDP
BEHIND = Surroundings(("192.168.1.20",), "192.168.1.20", "192.168.1.1")
DIRECT = Surroundings(("203.0.113.7",), "203.0.113.7", "203.0.113.1")


def all_are(outcome: Outcome, *protocols: Protocol, port: int | None = None) -> dict[Place, Sight]:
    return {
        (each, protocol): Sight(outcome, port)
        for each in range(RANGE.first, RANGE.last + 1)
        for protocol in protocols or tuple(Protocol)
    }


def found(but: dict[Place, Sight] | None = None, around: Surroundings = BEHIND, **facts: Any) -> dict[str, Problem]:
    return {one.code: one for one in remedies.findings(judged(but, **facts), around)}


def test_a_sound_map_has_no_findings() -> None:
    assert found() == {}
    assert found(around=DIRECT, configured_ip="203.0.113.7") == {}


def test_the_three_dropped_ports_are_named_with_their_protocols_and_lines() -> None:
    silent = Sight(Outcome.SILENT)
    dropped = {(40001, TCP): silent, (40003, UDP): silent, (40005, TCP): silent, (40005, UDP): silent}

    (problem,) = found(dropped).values()

    assert problem.code == "ports_filtered"
    assert problem.message == (
        "cannot be reached by TCP and UDP on port 40005; by TCP on port 40001; by UDP on port 40003: "
        "a firewall drops it, or the router does not forward it"
    )
    for line in (
        "iptables -I INPUT -p tcp -m multiport --dports 40001,40005 -j ACCEPT",
        "ufw allow 40001,40005/tcp; ufw allow 40003,40005/udp",
        "--add-port=40001/tcp --add-port=40005/tcp --add-port=40003/udp --add-port=40005/udp",
        "on the router 192.168.1.1: forward TCP and UDP ports 40001, 40003, 40005 to 192.168.1.20, same ports",
    ):
        assert line in problem.remedy


def test_a_router_that_forwards_nothing_is_one_finding() -> None:
    (problem,) = found(all_are(Outcome.SILENT)).values()

    assert problem.code == "ports_all_filtered"
    assert "on the router 192.168.1.1: forward TCP and UDP 40000-40009 to 192.168.1.20, same ports" in problem.remedy
    assert "ufw allow 40000:40009/tcp; ufw allow 40000:40009/udp" in problem.remedy


def test_a_machine_with_the_public_address_is_not_sent_to_a_router() -> None:
    (problem,) = found(all_are(Outcome.SILENT), DIRECT).values()

    assert "security group" in problem.remedy
    assert "on the router" not in problem.remedy


def test_a_rule_for_tcp_only_is_told_as_such() -> None:
    (problem,) = found(all_are(Outcome.SILENT, UDP)).values()

    assert problem.code == "ports_udp_filtered"
    assert "forward UDP as well as TCP" in problem.remedy
    assert "/tcp" not in problem.remedy


@pytest.mark.parametrize(
    ("around", "facts"),
    [
        (replace(BEHIND, router_wan_ip="100.72.3.4"), {}),
        (Surroundings(("100.72.3.4",), "100.72.3.4"), {}),
        (BEHIND, {"seen_address": "100.72.3.4", "address": "100.72.3.4"}),
    ],
)
def test_a_providers_translation_is_recognised(around: Surroundings, facts: dict[str, str]) -> None:
    codes = found(all_are(Outcome.SILENT), around, **facts)

    assert list(codes) == ["ports_behind_cgnat", "ports_all_filtered"]
    assert "100.72.3.4" in codes["ports_behind_cgnat"].message
    assert "public IPv4 address" in codes["ports_behind_cgnat"].remedy


def test_a_second_router_is_recognised_by_the_first_ones_outer_address() -> None:
    codes = found(all_are(Outcome.REFUSED), replace(BEHIND, router_wan_ip="10.0.0.2"))

    assert list(codes) == ["ports_double_nat", "ports_refused"]
    assert "10.0.0.2" in codes["ports_double_nat"].message
    assert not found(around=replace(BEHIND, router_wan_ip="203.0.113.7"))


def test_a_configured_address_that_was_not_proven_is_told() -> None:
    (problem,) = found(configured_ip="198.51.100.9").values()

    assert problem.code == "public_ip_differs"
    assert "set ports.public_ip: 203.0.113.7" in problem.remedy


@pytest.mark.parametrize(
    ("sight", "code", "words"),
    [
        (Sight(Outcome.REFUSED), "ports_refused", "double NAT"),
        (Sight(Outcome.OTHER), "ports_answered_by_other", "another machine"),
        (Sight(Outcome.ANSWERED, 40009), "ports_shifted", "same number"),
    ],
)
def test_ports_that_reach_somebody_else_are_told(sight: Sight, code: str, words: str) -> None:
    (problem,) = found({(40002, TCP): sight}).values()

    assert problem.code == code
    assert "port 40002" in problem.message
    assert words in problem.remedy


def test_an_answer_that_got_lost_is_told() -> None:
    (problem,) = found({(40002, UDP): Sight(Outcome.SILENT)}, arrived={(40002, UDP)}).values()

    assert problem.code == "ports_answer_lost"


def test_programs_of_the_host_are_named() -> None:
    (problem,) = found(used={(40002, TCP): "used by nginx (pid 7)"}).values()

    assert problem.code == "ports_in_use"
    assert problem.evidence == "port 40002/tcp used by nginx (pid 7)"


def test_a_range_full_of_contracts_has_no_findings() -> None:
    held = {place: 51 for place in all_are(Outcome.SILENT)}

    assert found(all_are(Outcome.SILENT), held=held) == {}


def test_ports_that_no_rule_can_hold_are_mended_by_the_whole_range() -> None:
    wide = PortRange(40000, 40099)
    sights = {place: Sight(Outcome.ANSWERED, place[0]) for place in reach.places(wide)}
    sights |= {(port, TCP): Sight(Outcome.SILENT) for port in range(40000, 40100, 2)}

    (problem,) = remedies.findings(reach.judge(replace(FACTS, port_range=wide), sights, None), BEHIND)

    assert "and 35 more groups" in problem.message
    assert "ufw allow 40000:40099/tcp" in problem.remedy


def test_many_groups_are_named() -> None:
    wide: PortMap = judged({(port, TCP): Sight(Outcome.SILENT) for port in range(40000, 40010, 2)})

    (problem,) = remedies.findings(wide, BEHIND)
    assert "ports 40000, 40002, 40004, 40006, 40008" in problem.message


def test_a_rule_of_firewalld_that_is_kept_also_begins_to_count() -> None:
    (problem,) = remedies.findings(judged({(40001, TCP): Sight(Outcome.SILENT)}), DIRECT)

    assert "firewall-cmd --permanent --add-port=40001/tcp && firewall-cmd --reload" in problem.remedy


def test_what_only_the_own_firewall_may_have_dropped_is_no_closed_port() -> None:
    silent = {place: Sight(Outcome.SILENT) for place in reach.places(RANGE)}
    found = reach.judge(replace(FACTS, may_be_own_firewall=True), silent, None)

    (problem,) = remedies.findings(found, Surroundings(("203.0.113.7",)))

    assert problem.code == "ports_unknown"
    assert "ufw allow 40000:40009/tcp" in problem.remedy


def test_ports_of_contracts_that_are_not_forwarded_are_told_where_free_ones_are_open() -> None:
    held = {(40004, TCP): 51, (40005, TCP): 51, (40006, UDP): 51}
    dropped = {(40004, TCP): Sight(Outcome.SILENT), (40005, TCP): Sight(Outcome.REFUSED)}

    (problem,) = remedies.findings(judged(dropped, held=held), Surroundings(("203.0.113.7",)))

    assert (problem.code, "port 40004 of contracts" in problem.message) == ("ports_not_forwarded", True)
    assert "DOCKER-USER" in problem.remedy
