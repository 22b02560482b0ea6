"""Certificates of Jupyter: fetched for those that want one, again before they end, and kept when that fails."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.contracts.certificate import LOCAL_NAMES
from kaalia.contracts.contract import Desired
from kaalia.errors import MarketplaceError
from kaalia.marketplace import machines
from kaalia.model.certificate import Certificate
from kaalia.model.relay import RelayForward, RelayLink
from kaalia.model.workload import LaunchMode
from kaalia.store import certificates as store
from kaalia.store import contracts, machine, relays
from kaalia.store.changes import Topic
from kaalia.sync.backoff import Backoff
from kaalia.sync.certificates import RETRIES_S, Certificates
from kaalia.sync.enroll import load_key
from kaalia.wire import signature
from tests.marketplace.support import Market
from tests.support.machines import machine_report
from tests.sync.support import SPEC, Machine, contract, open_pair, rent

HERE, THERE = "127.0.0.2", "127.0.0.3"
"""The marketplace sees the machine come from its own loopback."""
REPORT = replace(machine_report(), network=replace(machine_report().network, public_ip=HERE))
JUPYTER = replace(SPEC, launch_mode=LaunchMode.JUPYTER)


class Rig:
    """A machine at HERE with a contract of each kind."""

    def __init__(self, market: Market, host: Machine, key: Ed25519PrivateKey) -> None:
        self.market, self.host, self.key = market, host, key
        self.bell = host.changes.subscribe(Topic.CONTRACTS)
        self.notebook = self.plain = 0
        chance = Backoff(random.Random(1))
        self.keeper = Certificates(host.database, host.client, host.clock, self.bell, self.key, chance)

    async def rent(self) -> None:
        context, machine_id = self.market.context, self.host.member.machine_id
        async with context.engine.begin() as tx:
            await machines.put_report(tx, machine_id, REPORT)
        await self.host.database.transaction(lambda tx: machine.put_report(tx, REPORT))
        self.notebook = await rent(context, machine_id, spec=JUPYTER)
        self.plain = await rent(context, machine_id)
        await self.agree(self.notebook, spec=JUPYTER)
        await self.agree(self.plain)

    async def agree(self, contract_id: int, **changes: object) -> None:
        agreed, now = contract(contract_id, **changes), self.host.clock.now()  # type: ignore[arg-type]
        await self.host.database.transaction(lambda tx: contracts.upsert(tx, agreed, now))

    async def known(self) -> dict[int, Certificate]:
        return await self.host.database.read(store.all_certificates)

    def advance(self, time: timedelta) -> None:
        for clock in (self.host.clock, self.market.clock):
            clock.advance(time.total_seconds())


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    async with open_pair(folder) as (market, host):
        made = Rig(market, host, await asyncio.to_thread(load_key, host.state_dir))
        await made.rent()
        yield made


async def test_one_is_fetched_for_the_machines_own_key_and_the_bell_is_rung(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.keeper.look()
        known, is_rung = await made.known(), made.bell.is_set()

    assert known.keys() == {made.notebook}
    certificate = known[made.notebook]
    assert certificate.names[0] == HERE
    key = x509.load_pem_x509_certificate(certificate.chain.encode()).public_key()
    assert key == signature.tls_key(made.key, made.notebook).public_key()
    assert is_rung


async def test_it_is_renewed_in_its_last_third_and_not_before(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.keeper.look()
        first = await made.known()
        made.advance(timedelta(days=59))
        await made.keeper.look()
        before = await made.known()
        made.advance(timedelta(days=2))
        await made.keeper.look()
        after = await made.known()

    assert before == first
    assert after[made.notebook].ends_at == first[made.notebook].ends_at + timedelta(days=61)


async def test_a_new_address_or_relay_is_certified_once_the_marketplace_knows_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.keeper.look()
        moved = replace(REPORT, network=replace(REPORT.network, public_ip=THERE))
        await made.host.database.transaction(lambda tx: machine.put_report(tx, moved))
        made.advance(timedelta(seconds=RETRIES_S[-1]))
        await made.keeper.look()
        early = await made.known()
        async with made.market.context.engine.begin() as tx:
            await machines.put_report(tx, made.host.member.machine_id, moved)
        made.advance(timedelta(seconds=RETRIES_S[-1]))
        await made.keeper.look()
        late = await made.known()
        forward = RelayForward(made.notebook, 8080, 20001)
        link = RelayLink("west", "relay.example", 2222, "nobody", "ssh-ed25519 A", 20000, 20015, (forward,))
        await made.host.database.transaction(lambda tx: relays.put_links(tx, [link]))
        wanted = await made.host.database.read(store.wanted)

    assert early[made.notebook].names[0] == HERE
    assert late[made.notebook].names[0] == THERE
    assert wanted[made.notebook][:2] == (THERE, "relay.example")


async def test_an_address_that_is_not_the_machines_own_is_asked_for_rarely(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        foreign = replace(REPORT, network=replace(REPORT.network, public_ip="1.1.1.1"))
        await made.host.database.transaction(lambda tx: machine.put_report(tx, foreign))
        async with made.market.context.engine.begin() as tx:
            await machines.put_report(tx, made.host.member.machine_id, foreign)
        await made.keeper.look()
        first = await made.known()
        made.bell.clear()
        for seconds in RETRIES_S:
            made.advance(timedelta(seconds=seconds))
            await made.keeper.look()
        again, is_rung = await made.known(), made.bell.is_set()

    assert first[made.notebook].names == LOCAL_NAMES
    assert again == first
    assert not is_rung
    assert RETRIES_S[-1] >= 600


async def test_it_is_kept_while_the_marketplace_is_away_and_forgotten_with_the_contract(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.keeper.look()
        made.advance(timedelta(days=100))
        await made.market.context.engine.dispose()
        made.market.context.engine = None  # type: ignore[assignment]
        with pytest.raises(MarketplaceError):
            await made.keeper.look()
        kept = await made.known()
        await made.agree(made.notebook, spec=JUPYTER, desired=Desired.ENDED)
        await made.keeper.look()
        gone = await made.known()

    assert kept.keys() == {made.notebook}
    assert gone == {}


async def test_a_refused_one_holds_up_no_other(tmp_path: Path) -> None:
    """The machine knows a contract that the marketplace does not."""
    async with rig(tmp_path) as made:
        await made.agree(1, spec=JUPYTER)
        await made.agree(999, spec=JUPYTER)
        await made.keeper.look()
        known = await made.known()

    assert known.keys() == {made.notebook}
