"""The whole conversation: both loops, the real marketplace, outages in between."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestServer

from kaalia.errors import UnreachableError
from kaalia.marketplace import accounts, app, sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.model.workload import WorkloadState
from kaalia.runtime.base import RegistryLogin
from kaalia.store import enrolment
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.enroll import enroll, load_key
from kaalia.sync.service import SyncService
from kaalia.wire import document
from kaalia.wire.protocol import RegistryLoginReply, TaskResult
from tests.marketplace.support import open_context, open_market
from tests.support.clock import FakeClock
from tests.sync.support import (
    FINGERPRINT,
    Machine,
    forget,
    known_status,
    open_machine,
    open_pair,
    open_state,
    rent,
    status,
)
from tests.sync.test_tasks import request


async def no_logs(contract_id: int, tail: int) -> str:
    return f"output of {contract_id}\n"


def service_of(host: Machine) -> SyncService:
    return SyncService(host.database, host.changes, host.clock, host.state_dir, no_logs, heartbeat_s=30, chance=Quick())


class Quick(random.Random):
    """Chance that always chooses a short wait, so that outages pass quickly."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, 0.05) if b <= 60 and a < 20 else b


@asynccontextmanager
async def running(service: SyncService) -> AsyncIterator[SyncService]:
    task = asyncio.ensure_future(service.run())
    try:
        yield service
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(look: Callable[[], Awaitable[object]], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not await look():
            await asyncio.sleep(0.02)


async def test_contract_comes_in_and_status_goes_out_at_once(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host), running(service_of(host)):
        contract_id = await rent(market.context, host.member.machine_id)
        await until(host.contracts, 5)
        await host.tell(status(contract_id, WorkloadState.RUNNING, host.clock.now()))

        async def is_told() -> bool:
            known = await known_status(market.context, contract_id)
            return known is not None and known.state is WorkloadState.RUNNING

        await until(is_told, 5)


async def test_waits_until_it_is_enrolled(tmp_path: Path) -> None:
    (tmp_path / "market").mkdir()
    state = tmp_path / "state"
    async with open_market(tmp_path / "market") as market, open_state(state) as (database, changes):
        service = SyncService(database, changes, market.clock, state, no_logs, chance=Quick())
        async with running(service):
            await asyncio.sleep(0.1)
            token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
            await enroll(database, state, market.url, token, FINGERPRINT, market.clock)

            async def has_snapshot() -> bool:
                return await database.read(enrolment.get_snapshot) is not None

            await until(has_snapshot, 5)


async def test_task_is_answered(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host), running(service_of(host)):
        contract_id = await rent(market.context, host.member.machine_id)
        asked = request(host, contract_id=contract_id)
        async with market.context.engine.begin() as tx:
            await tx.execute(
                sa.insert(tables.tasks).values(
                    task_id="t1",
                    machine_id=host.member.machine_id,
                    document=document.encode(asked),
                    created_at=host.clock.now().timestamp(),
                )
            )
        await rent(market.context, host.member.machine_id)

        async def result() -> TaskResult | None:
            async with market.context.engine.begin() as tx:
                text = await tx.scalar(sa.select(tables.tasks.c.result))
            return document.decode(TaskResult, text) if text else None

        await until(result)
        answer = await result()

    assert answer == TaskResult(f"output of {contract_id}\n")


async def test_login_is_fetched_for_the_reconciler(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        other_id = await rent(market.context, host.member.machine_id)
        login = RegistryLoginReply("r.example", "me", "hunter2")
        sealed = sealing.seal(market.context.signing_key, document.encode(login).encode())
        async with market.context.engine.begin() as tx:
            row = tables.contracts.c.id == contract_id
            await tx.execute(sa.update(tables.contracts).where(row).values(image_login=sealed))
        service = service_of(host)
        with pytest.raises(UnreachableError):
            await service.login_source(contract_id)
        async with running(service):
            await until(host.contracts)
            given = await service.login_source(contract_id)
            none = await service.login_source(other_id)

    assert given == RegistryLogin("r.example", "me", "hunter2")
    assert none is None


@asynccontextmanager
async def serve_on(context: Context, port: int = 0) -> AsyncIterator[int]:
    """The marketplace as one process would serve it; open long-polls do not hold up its end."""
    server = TestServer(app.build(context), host="127.0.0.1", port=port)
    await server.start_server(shutdown_timeout=0.1)
    try:
        assert server.port is not None
        yield server.port
    finally:
        await server.close()


async def test_what_happened_during_an_outage_is_told_once_and_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The marketplace goes away and comes back as a new process on the same database."""
    clock = FakeClock()
    (tmp_path / "market").mkdir()
    async with open_context(tmp_path / "market", clock) as first:
        await accounts.add_user(first.engine, "host", True, clock.now())
        await accounts.add_user(first.engine, "renter", False, clock.now())
        token = await accounts.new_enrol_token(first.engine, "host", clock.now())
        async with open_state(tmp_path / "state") as (database, changes):
            async with serve_on(first) as port:
                member = await enroll(
                    database, tmp_path / "state", f"http://127.0.0.1:{port}", token, FINGERPRINT, clock
                )
                key = await asyncio.to_thread(load_key, tmp_path / "state")
                client = MarketplaceClient(member.url, member.machine_id, key, clock)
                host = Machine(database, changes, clock, tmp_path / "state", member, client)
                contract_id = await rent(first, member.machine_id)
                async with running(service_of(host)):
                    await until(host.contracts)
            async with running(service_of(host)):
                for number in range(5):
                    told = status(contract_id, WorkloadState.RUNNING, clock.now(), status_msg=str(number))
                    await host.tell(told)
                    clock.advance(1)
                await asyncio.sleep(0.3)
                assert await host.pending() == 5
                assert list(await host.contracts()) == [contract_id]
                second = Context(first.engine, clock, first.settings, first.signing_key, first.epoch)
                async with serve_on(second, port):

                    async def is_empty() -> bool:
                        return await host.pending() == 0

                    await until(is_empty)
                    known = await known_status(second, contract_id)
                    newer = await rent(second, member.machine_id)

                    async def has_newer() -> bool:
                        return newer in await host.contracts()

                    await until(has_newer)

    assert known is not None
    assert known.status_msg == "4"
    assert caplog.text.count("marketplace_unreachable") <= 4


async def test_missing_contract_is_kept_while_the_conversation_goes_on(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host), running(service_of(host)):
        contract_id = await rent(market.context, host.member.machine_id)
        await until(host.contracts)
        await forget(market.context, host.member.machine_id, contract_id)

        async def is_missing() -> bool:
            return (await host.contracts())[contract_id].missing_since is not None

        await until(is_missing)


async def test_two_machines_do_not_wake_or_see_each_other(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (market, first),
        open_machine(market, tmp_path / "second") as second,
        running(service_of(first)),
        running(service_of(second)),
    ):
        mine = await rent(market.context, first.member.machine_id)
        theirs = await rent(market.context, second.member.machine_id)
        await until(first.contracts)
        await until(second.contracts)
        seen = list(await first.contracts()), list(await second.contracts())

    assert seen == ([mine], [theirs])


async def test_cancellation_detaches_quickly(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await rent(market.context, host.member.machine_id)
        task = asyncio.ensure_future(service_of(host).run())
        await until(host.contracts)
        task.cancel()
        started = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.CancelledError):
            await task
        took_s = asyncio.get_running_loop().time() - started

    assert took_s < 2
