"""Ports as a marketplace saw them itself: what counts, what takes away, and what changes nothing."""

from datetime import timedelta

from kaalia.contracts import sightings
from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from tests.support.clock import START

HERE, RANGE = "203.0.113.7", PortRange(40000, 40099)


def batch(
    ports: range, outcome: Outcome = Outcome.ANSWERED, protocol: Protocol = Protocol.TCP
) -> list[sightings.Sight]:
    return [sightings.sight(port, protocol, outcome, port, is_held=False) for port in ports]


def test_what_answered_counts_and_what_is_refused_later_does_not_any_more() -> None:
    known = sightings.noted(None, HERE, batch(range(40000, 40050)), START)
    known = sightings.noted(known, HERE, batch(range(40000, 40020), protocol=Protocol.UDP), START)
    less = sightings.noted(known, HERE, batch(range(40010, 40020), Outcome.SILENT), START + timedelta(hours=1))

    assert (known.tcp, known.udp) == (((40000, 40049),), ((40000, 40019),))
    assert sightings.counted(known, RANGE) == (50, 20)
    assert less.tcp == ((40000, 40009), (40020, 40049))
    assert sightings.counted(less, RANGE) == (40, 20)
    assert sightings.counted(less, PortRange(40005, 40024)) == (10, 15)
    assert sightings.counted(less, PortRange(50000, 50010)) == (0, 0)


def test_a_port_that_a_tenant_holds_stays_as_it_was() -> None:
    known = sightings.noted(None, HERE, batch(range(40000, 40002)), START)
    held = [sightings.sight(port, Protocol.TCP, Outcome.REFUSED, None, is_held=True) for port in range(40000, 40004)]

    assert sightings.noted(known, HERE, held, START).tcp == ((40000, 40001),)


def test_another_port_or_a_connection_alone_proves_nothing() -> None:
    shifted = [sightings.sight(40000, Protocol.TCP, Outcome.ANSWERED, 40001, is_held=False)]
    taken = [sightings.sight(40002, Protocol.TCP, Outcome.CONNECTED, None, is_held=False)]

    assert sightings.noted(None, HERE, [*shifted, *taken], START).tcp == ()


def test_another_address_begins_anew() -> None:
    known = sightings.noted(None, HERE, batch(range(40000, 40050)), START)

    assert sightings.noted(known, "203.0.113.8", batch(range(40000, 40003)), START).tcp == ((40000, 40002),)
