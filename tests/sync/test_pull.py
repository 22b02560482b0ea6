import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.contracts.contract import Desired
from kaalia.contracts.offer import Listing
from kaalia.errors import MarketplaceError, UnreachableError
from kaalia.marketplace import machines
from kaalia.model.workload import WorkloadState
from kaalia.store import contracts, enrolment, machine, tasks
from kaalia.store.changes import Topic, wait
from kaalia.sync.backoff import Backoff
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.enroll import load_key
from kaalia.sync.pull import RENEW_BEFORE, Pull
from kaalia.wire import document, signature
from kaalia.wire.protocol import Envelope, Snapshot, TaskRequest, Verb
from tests.marketplace.support import Market
from tests.sync.support import (
    SPEC,
    Machine,
    contract,
    destroy,
    forget,
    open_pair,
    rent,
    status,
    write_contract,
)


def pull_of(host: Machine) -> Pull:
    return Pull(host.database, host.client, host.clock, host.member, Backoff(random.Random(1)))


def snapshot(host: Machine, revision: int = 100, **changes: object) -> Snapshot:
    now = host.clock.now()
    plain = Snapshot(
        machine_id=host.member.machine_id,
        epoch=1,
        revision=revision,
        issued_at=now,
        not_after=now + timedelta(hours=1),
        listing=None,
        contracts=(),
        tasks=(),
        complete=True,
        marketplace_url=host.member.url,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def signed(market: Market, news: Snapshot, key: Ed25519PrivateKey | None = None) -> Envelope:
    return signature.sign_document(key or market.context.signing_key, document.encode(news))


async def refusal(host: Machine, envelope: Envelope) -> str:
    """The code of a refusal that changed nothing."""
    before = await host.contracts(), await host.database.read(enrolment.get_snapshot)
    with pytest.raises(MarketplaceError) as caught:
        await pull_of(host).accept(envelope)
    assert (await host.contracts(), await host.database.read(enrolment.get_snapshot)) == before
    return caught.value.code


async def test_snapshot_is_stored_as_signed_and_rung(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        bells = [host.changes.subscribe(topic) for topic in (Topic.CONTRACTS, Topic.TASKS)]
        contract_id = await rent(market.context, host.member.machine_id)
        listing = Listing(Decimal("0.35"))
        async with market.context.engine.begin() as tx:
            await machines.put_listing(tx, host.member.machine_id, listing)
        await pull_of(host).once(0)
        known = await host.contracts()
        accepted = await host.database.read(enrolment.get_snapshot)
        kept_listing = await host.database.read(machine.get_listing)
        rung = [await wait(bell, 1) for bell in bells]

    assert known[contract_id].contract == contract(contract_id)
    assert known[contract_id].origin == "marketplace"
    assert accepted is not None
    assert kept_listing == listing
    payload = signature.verify_document(document.decode(Envelope, accepted.envelope), host.member.marketplace_keys)
    assert document.decode(Snapshot, payload).revision == accepted.revision
    assert rung == [True, True]


async def test_accepted_contract_arrives_during_the_long_poll(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        await pull.once(0)
        waiting = asyncio.ensure_future(pull.once(30))
        await asyncio.sleep(0.1)
        contract_id = await rent(market.context, host.member.machine_id)
        await asyncio.wait_for(waiting, 20)
        known = await host.contracts()

    assert list(known) == [contract_id]


async def test_forged_snapshots_change_nothing(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await rent(market.context, host.member.machine_id)
        await pull_of(host).once(0)
        good = signed(market, snapshot(host))
        stranger = signed(market, snapshot(host), signature.generate_key())
        codes = [
            await refusal(host, stranger),
            await refusal(host, replace(stranger, key_id=good.key_id)),
            await refusal(host, replace(good, payload=good.payload.replace('"revision":100', '"revision":101'))),
        ]

    assert codes == ["document_forged"] * 3


async def test_unfit_snapshots_change_nothing(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await rent(market.context, host.member.machine_id)
        await pull_of(host).once(0)
        accepted = await host.database.read(enrolment.get_snapshot)
        assert accepted is not None
        unfit = {
            "snapshot_foreign": snapshot(host, machine_id=host.member.machine_id + 1),
            "snapshot_incomplete": snapshot(host, complete=False),
            "snapshot_stale": snapshot(host, revision=accepted.revision - 1),
        }
        codes = [await refusal(host, signed(market, news)) for news in unfit.values()]
        same = snapshot(host, revision=accepted.revision, not_after=accepted.not_after)
        replayed = await refusal(host, signed(market, same))
        nonsense = await refusal(host, signature.sign_document(market.context.signing_key, '{"machine_id": 1}'))

    assert codes == list(unfit)
    assert replayed == "snapshot_stale"
    assert nonsense == "snapshot_invalid"


async def test_new_epoch_beats_any_revision(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        await pull.accept(signed(market, snapshot(host, 500)))
        await pull.accept(signed(market, snapshot(host, 1, epoch=2)))
        accepted = await host.database.read(enrolment.get_snapshot)
        stale = await refusal(host, signed(market, snapshot(host, 501)))

    assert accepted is not None
    assert (accepted.epoch, accepted.revision) == (2, 1)
    assert stale == "snapshot_stale"


async def test_missing_contract_is_marked_and_not_removed(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        contract_id = await rent(market.context, host.member.machine_id)
        await rent(market.context, host.member.machine_id)
        await pull.once(0)
        await forget(market.context, host.member.machine_id, contract_id)
        await pull.once(0)
        first = (await host.contracts())[contract_id]
        host.clock.advance(60)
        market.clock.advance(60)
        await rent(market.context, host.member.machine_id)
        await pull.once(0)
        second = (await host.contracts())[contract_id]

    assert first.contract.desired is Desired.RUNNING
    assert (first.missing_revisions, second.missing_revisions) == (1, 2)
    assert second.missing_since == first.missing_since


async def test_contract_that_is_mentioned_again_is_no_longer_missing(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        agreed = contract(5)
        await pull.accept(signed(market, snapshot(host, 10, contracts=(agreed,))))
        await pull.accept(signed(market, snapshot(host, 11)))
        await pull.accept(signed(market, snapshot(host, 12, contracts=(agreed,))))
        known = (await host.contracts())[5]

    assert known.missing_since is None
    assert known.missing_revisions == 0


async def test_tombstone_is_stored_and_ended_contract_forgotten(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        contract_id = await rent(market.context, host.member.machine_id)
        await pull.once(0)
        await destroy(market.context, host.member.machine_id, contract_id, host.clock.now())
        await pull.once(0)
        tombstone = (await host.contracts())[contract_id]
        await host.tell(status(contract_id, WorkloadState.ENDED, host.clock.now()))
        await forget(market.context, host.member.machine_id, contract_id)
        await pull.once(0)
        after = await host.contracts()

    assert tombstone.contract.desired is Desired.ENDED
    assert after == {}


async def test_tombstone_of_an_unknown_contract_is_left_to_the_reconciler(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        gone = contract(77, desired=Desired.ENDED)
        await pull_of(host).accept(signed(market, snapshot(host, contracts=(gone,))))
        known = await host.contracts()

    assert known[77].contract == gone


async def test_older_generation_is_not_taken(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        newer = contract(5, generation=3)
        await pull.accept(signed(market, snapshot(host, 10, contracts=(newer,))))
        await pull.accept(signed(market, snapshot(host, 11, contracts=(contract(5, generation=2),))))
        known = (await host.contracts())[5]

    assert known.contract == newer
    assert known.missing_since is None


async def test_new_generation_and_new_wish_are_taken(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        pull = pull_of(host)
        await pull.once(0)
        changed = contract(
            contract_id, generation=2, spec=replace(SPEC, image="alpine"), desired=Desired.STOPPED, restart_count=1
        )
        await write_contract(market.context, host.member.machine_id, changed)
        await pull.once(0)
        known = (await host.contracts())[contract_id]

    assert known.contract == changed


async def test_id_given_twice_does_not_hand_a_tenant_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A marketplace that lost its history counts from 1 again: contract 5 is somebody else's now."""
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        tenant = contract(5)
        await pull.accept(signed(market, snapshot(host, 10, contracts=(tenant,))))
        stranger = contract(5, spec=replace(SPEC, image="other"))
        await pull.accept(signed(market, snapshot(host, 1, epoch=2, contracts=(stranger,))))
        known = (await host.contracts())[5]

    assert known.contract == tenant
    assert known.missing_revisions == 1
    assert "spec_changed" in caplog.text


async def test_local_contracts_are_not_the_marketplaces(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        mine = contract(5)
        await host.database.transaction(lambda tx: contracts.upsert(tx, mine, host.clock.now(), "local"))
        pull = pull_of(host)
        await pull.accept(signed(market, snapshot(host, 10)))
        await pull.accept(signed(market, snapshot(host, 11, contracts=(contract(5, desired=Desired.ENDED),))))
        known = (await host.contracts())[5]

    assert (known.contract, known.origin, known.missing_since) == (mine, "local", None)


async def test_snapshot_is_renewed_before_it_expires(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        contract_id = await rent(market.context, host.member.machine_id)
        await pull.once(0)
        before = await host.database.read(enrolment.get_snapshot)
        await pull.once(0)
        unchanged = await host.database.read(enrolment.get_snapshot)
        for clock in (market.clock, host.clock):
            clock.advance(3600 - RENEW_BEFORE.total_seconds())
        await pull.once(0)
        after = await host.database.read(enrolment.get_snapshot)
        known = (await host.contracts())[contract_id]

    assert before is not None
    assert after is not None
    assert unchanged == before
    assert after.revision == before.revision
    assert after.not_after == host.clock.now() + timedelta(hours=1)
    assert known.missing_since is None


async def test_tasks_are_kept_once(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        task = TaskRequest("t1", Verb.LOGS, 5, host.clock.now() + timedelta(seconds=60))
        pull = pull_of(host)
        await pull.accept(signed(market, snapshot(host, 10, tasks=(task,))))
        taken = await host.database.transaction(tasks.take_new)
        await pull.accept(signed(market, snapshot(host, 11, tasks=(task,))))
        again = await host.database.transaction(tasks.take_new)

    assert taken == (task,)
    assert again == ()


async def test_verb_of_a_newer_marketplace_does_not_spoil_the_snapshot(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        task = TaskRequest("t1", Verb.LOGS, 5, host.clock.now() + timedelta(seconds=60))
        payload = document.encode(snapshot(host, contracts=(contract(5),), tasks=(task,)))
        envelope = signature.sign_document(market.context.signing_key, payload.replace('"logs"', '"fly"'))
        await pull_of(host).accept(envelope)
        known = await host.contracts()
        taken = await host.database.transaction(tasks.take_new)

    assert list(known) == [5]
    assert [each.verb for each in taken] == [Verb.UNKNOWN]


async def test_a_long_poll_that_is_cut_off_late_is_told_and_one_that_is_refused_at_once_is_not(
    tmp_path: Path,
) -> None:
    lost: list[str] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.transport.abort()

    async with open_pair(tmp_path) as (_, host):
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = MarketplaceClient(url, 1, await asyncio.to_thread(load_key, host.state_dir), host.clock)
        backoff = Backoff(random.Random(1))
        for late_s, wanted in ((60.0, 0), (0.0, 1)):
            pull = Pull(
                host.database,
                client,
                host.clock,
                host.member,
                backoff,
                lost=lambda: lost.append("x"),
                lost_after_s=late_s,
            )
            with pytest.raises(UnreachableError):
                await pull.once()
            assert len(lost) == wanted
        server.close()
        await client.close()
