"""Whether the outside comes through to a container, asked only where it came through before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kaalia.errors import UnreachableError
from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome, PortMap, PortSpan, PortState, Reason
from kaalia.model.workload import Protocol
from kaalia.selftest import outside
from kaalia.selftest.outside import Ask
from kaalia.store import reach
from kaalia.store.database import Database
from kaalia.wire.probe import ProbeReply, ProbeRequest, ProbeResult
from tests.support.clock import START

HERE = "203.0.113.7"


@dataclass
class Prober:
    outcomes: list[Outcome]
    address: str = HERE
    is_away: bool = False
    asked: list[ProbeRequest] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ask]:
        yield self.probe

    async def probe(self, request: ProbeRequest) -> ProbeReply:
        self.asked.append(request)
        if self.is_away:
            raise UnreachableError("prober_unreachable", "cannot reach the prober")
        (target,) = request.targets
        seen = ProbeResult(target.port, target.protocol, self.outcomes.pop(0))
        return ProbeReply(self.address, self.address, (seen,))


async def known(store: Database, *, is_open: bool = True) -> None:
    span = PortSpan(40000, 40099, Protocol.TCP, PortState.OPEN, Reason.ANSWERED, is_open)
    found = build_map((span,))
    await store.transaction(lambda tx: reach.put_map(tx, found))


def build_map(spans: tuple[PortSpan, ...]) -> PortMap:
    return PortMap(START, "a prober", PortRange(40000, 40799), None, HERE, HERE, None, spans)


async def test_a_port_that_was_reached_before_is_tried_by_a_connection(store: Database) -> None:
    await known(store)
    prober = Prober([Outcome.CONNECTED])

    assert await outside.seen(store, prober.open, 40007) is Outcome.CONNECTED
    assert prober.asked[0].targets[0].connect_only


async def test_one_lost_packet_is_no_verdict(store: Database) -> None:
    await known(store)

    assert await outside.seen(store, Prober([Outcome.SILENT, Outcome.CONNECTED]).open, 40007) is Outcome.CONNECTED
    assert await outside.seen(store, Prober([Outcome.SILENT, Outcome.SILENT]).open, 40007) is Outcome.SILENT


async def test_where_nobody_ever_came_in_nobody_is_asked(store: Database) -> None:
    prober = Prober([])

    assert await outside.seen(store, prober.open, 40007) is None
    await known(store, is_open=False)
    assert await outside.seen(store, prober.open, 40007) is None
    await known(store)
    assert await outside.seen(store, prober.open, 41000) is None
    assert not prober.asked


@pytest.mark.parametrize("prober", [Prober([], is_away=True), Prober([Outcome.SILENT], address="198.51.100.1")])
async def test_a_prober_that_is_away_or_sees_another_address_says_nothing(store: Database, prober: Prober) -> None:
    await known(store)

    assert await outside.seen(store, prober.open, 40007) is None
