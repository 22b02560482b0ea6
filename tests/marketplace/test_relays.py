"""Relays as the marketplace knows them: who may listen where, and where renters are sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.errors import ConfigError
from kaalia.marketplace import daemons, relay_list, relays
from kaalia.marketplace.relay_list import KnownRelay
from kaalia.model.machine import PortRange, ProvenPorts
from kaalia.model.relay import RelayLink
from kaalia.model.workload import PortBinding, Protocol, WorkloadState
from kaalia.wire import document, signature
from kaalia.wire.protocol import Snapshot
from kaalia.wire.relay import MachinePermit, RelayPermits, RelayPoll
from tests.marketplace.renting import accept, ask_of, list_machine, rent, rented_market, say, show
from tests.marketplace.support import Answer, Market, add_machine
from tests.support.clock import START
from tests.support.machines import machine_report

PORTS = PortRange(20000, 20031)
MACHINE_KEY, OTHER_KEY, HOST_KEY = (signature.openssh_public(signature.generate_key()) for _ in range(3))
POLL = RelayPoll(HOST_KEY, "nobody", PORTS.first, PORTS.last)
SSH_PORTS = (PortBinding(22, 22, 40022, Protocol.TCP), PortBinding(8080, 8080, 40080, Protocol.TCP))


class Relay:
    """A relay of the test's own, known as `west`."""

    def __init__(self, market: Market, token: str) -> None:
        self.market, self.token = market, token

    async def poll(self, name: str = "west", token: str | None = None, **changes: Any) -> Answer:
        api = self.market.anyone.using(self.token if token is None else token)
        body = document.encode(replace(POLL, **changes)).encode()
        return await api.call("POST", f"/kaalia/v1/relays/{name}/permits", data=body)

    async def permits(self, **changes: Any) -> RelayPermits:
        answer = await self.poll(**changes)
        assert answer.status == 200, answer.body
        machines = [MachinePermit(**{**one, "ports": tuple(one["ports"])}) for one in answer.body["machines"]]
        return RelayPermits(answer.body["digest"], tuple(machines))


@asynccontextmanager
async def relayed(folder: Path, *, with_key: bool = True, **network: Any) -> AsyncIterator[tuple[Market, Relay]]:
    """A relay that was heard of, and a listed machine of 8 GPUs with a key."""
    report = machine_report()
    report = replace(report, network=replace(report.network, **network))
    async with rented_market(folder, report) as market:
        token = await relay_list.add(market.context.engine, "west", "relay.example", 2222, PORTS)
        relay = Relay(market, token)
        if with_key:
            await tell_key(market, 1, MACHINE_KEY)
        await relay.permits()
        yield market, relay


async def tell_key(market: Market, machine_id: int, key: str | None) -> None:
    async with market.context.engine.begin() as tx:
        await relays.take_key(market.context, tx, machine_id, key)
    await relays.ring(market.context, machine_id)


async def links(market: Market, machine_id: int = 1) -> tuple[RelayLink, ...]:
    """What the machine is told, signed."""
    envelope = await daemons.desired(market.context, machine_id, 0, 0, 0.0)
    assert envelope is not None
    return document.decode(Snapshot, envelope.payload).relays or ()


async def running(market: Market, **body: Any) -> dict[str, Any]:
    instance_id = await rent(market, **body)
    await say(market, instance_id, WorkloadState.RUNNING, ports=SSH_PORTS, started_at=market.clock.now())
    row: dict[str, Any] = await show(market, instance_id)
    return row


async def known(market: Market) -> KnownRelay:
    (found,) = await relay_list.known(market.context.engine)
    return found


async def test_a_proxied_instance_is_reached_by_the_relay(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, relay):
        row = await running(market, runtype="ssh_proxy")
        (link,) = await links(market)
        permits = await relay.permits()

    (forward,) = link.forwards
    assert (row["ssh_host"], row["ssh_port"]) == ("relay.example", forward.relay_port)
    assert row["relay_ports"] == {"22/tcp": forward.relay_port}
    assert list(row["ports"]) == ["8080/tcp"], "the client would take 22/tcp for the better way"
    assert (forward.contract_id, forward.container_port) == (row["id"], 22)
    assert replace(link, forwards=()) == RelayLink("west", "relay.example", 2222, "nobody", HOST_KEY, 20000, 20015)
    assert permits.machines == (MachinePermit(1, MACHINE_KEY, tuple(range(20000, 20016))),)


async def test_jupyter_and_ssh_are_neighbours(tmp_path: Path) -> None:
    """The public client adds one to `ssh_port` where `jupyter` is in the launch mode."""
    async with relayed(tmp_path) as (market, _):
        row = await running(market, runtype="jupyter_proxy ssh_proxy")

    assert row["relay_ports"] == {"8080/tcp": row["ssh_port"], "22/tcp": row["ssh_port"] + 1}
    assert row["ports"] == {}


async def test_direct_ports_come_first_where_they_are_asked_for(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, _):
        both = await running(market, runtype="ssh_direc ssh_proxy")
        direct = await running(market, runtype="ssh")

    assert (both["ssh_host"], both["ssh_port"]) == ("203.0.113.7", 40022)
    assert both["ports"]["22/tcp"]
    assert both["relay_host"] == "relay.example"
    assert (direct["ssh_port"], direct["relay_host"], direct["relay_ports"]) == (40022, None, {})


async def test_a_machine_that_proved_to_be_unreachable_is_always_relayed(tmp_path: Path) -> None:
    async with relayed(tmp_path, proven=ProvenPorts("203.0.113.7", 0, 0, START)) as (market, _):
        rows = [await running(market, runtype=words) for words in ("ssh", "ssh_direc ssh_proxy")]

    assert [row["ssh_host"] for row in rows] == ["relay.example", "relay.example"]


async def test_a_row_that_does_not_run_tells_no_address(tmp_path: Path) -> None:
    """The client would keep it for ever."""
    async with relayed(tmp_path) as (market, _):
        row = await show(market, await rent(market, runtype="ssh_proxy"))

    assert row["ssh_host"] is row["ssh_port"] is row["relay_host"] is None


@pytest.mark.parametrize("why", ["no key", "no relay heard of", "no relay at all"])
async def test_without_a_relay_proxy_modes_are_as_before(tmp_path: Path, why: str) -> None:
    async with relayed(tmp_path, with_key=why != "no key") as (market, _):
        if why == "no relay at all":
            await relay_list.remove(market.context.engine, "west")
        if why == "no relay heard of":
            market.context.settings = replace(market.context.settings, relay_silent_after_s=-1.0)
        row = await running(market, runtype="ssh_proxy")

    assert (row["ssh_host"], row["ssh_port"], row["relay_host"]) == ("203.0.113.7", 40022, None)
    assert row["ports"]["22/tcp"]


async def test_ports_are_given_again_to_the_same_machine_only(tmp_path: Path) -> None:
    """17 instances need a second block, which another machine then cannot have; what is over is free again."""
    async with relayed(tmp_path) as (market, relay):
        other = await add_machine(market.context)
        await list_machine(market.context, other)
        await tell_key(market, other, OTHER_KEY)
        first = [await rent(market, runtype="ssh_proxy") for _ in range(8)]
        for instance_id in first:
            await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/")
            await say(market, instance_id, WorkloadState.ENDED)
        second = [await rent(market, runtype="ssh_proxy") for _ in range(8)]
        theirs = await accept(market, await ask_of(market.context, 1, other), runtype="ssh_proxy")
        (mine,), (foreign,) = await links(market), await links(market, other)
        permits = await relay.permits()

    assert theirs.status == 200
    assert {forward.contract_id for forward in mine.forwards} == set(second)
    assert {forward.relay_port for forward in mine.forwards} <= set(range(20000, 20016))
    assert all(20016 <= forward.relay_port <= 20031 for forward in foreign.forwards)
    assert [(one.machine_id, one.ports[0]) for one in permits.machines] == [(1, 20000), (other, 20016)]


async def test_a_full_relay_gives_nothing_and_refuses_no_rental(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, _):
        for key in (OTHER_KEY, HOST_KEY):
            other = await add_machine(market.context)
            await list_machine(market.context, other)
            await tell_key(market, other, key)
            await accept(market, await ask_of(market.context, 1, other), runtype="ssh_proxy")
        row = await running(market, runtype="ssh_proxy")

    assert row["relay_host"] is None


async def test_news_reaches_a_relay_that_waits(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, relay):
        empty = await relay.permits()
        waiting = asyncio.create_task(relay.poll(known=empty.digest, wait_s=20.0))
        await asyncio.sleep(0.1)
        await rent(market, runtype="ssh_proxy")
        async with asyncio.timeout(30):
            answer = await waiting
        quiet = await relay.poll(known=answer.body["digest"])

    assert [one["machine_id"] for one in answer.body["machines"]] == [1]
    assert quiet.status == 204


async def test_a_new_key_of_a_machine_replaces_the_old_one(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, relay):
        await rent(market, runtype="ssh_proxy")
        await tell_key(market, 1, "no key at all")
        kept = await relay.permits()
        await tell_key(market, 1, OTHER_KEY)
        changed = await relay.permits()
        await tell_key(market, 1, None)
        gone = await relay.permits()

    assert [one.public_key for one in kept.machines] == [MACHINE_KEY]
    assert [one.public_key for one in changed.machines] == [OTHER_KEY]
    assert gone.machines == ()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"name": "east"}, 404, "relay_unknown"),
        ({"token": "wrong"}, 401, "relay_token_invalid"),
        ({"token": ""}, 401, "relay_token_invalid"),
        ({"host_key": MACHINE_KEY}, 409, "relay_key_changed"),
        ({"host_key": "ssh-rsa AAAA"}, 400, "relay_invalid"),
        ({"user": "-x"}, 400, "relay_invalid"),
        ({"last_port": 20047}, 409, "relay_ports_differ"),
    ],
)
async def test_a_relay_that_is_not_the_known_one_is_refused(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str
) -> None:
    async with relayed(tmp_path) as (_, relay):
        answer = await relay.poll(**changes)

    assert (answer.status, answer.body["error"]) == (status, code)
    assert answer.body["msg"].startswith("cannot")


async def test_a_lost_host_key_is_replaced_by_the_operator_only(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, relay):
        await rent(market, runtype="ssh_proxy")
        await relay_list.forget_key(market.context.engine, "west")
        (waiting,) = await links(market)
        before = await daemons.desired(market.context, 1, 0, 0, 0.0)
        await relay.permits(host_key=OTHER_KEY)
        again = await relay.poll(host_key=HOST_KEY)
        (link,) = await links(market)
        after = await daemons.desired(market.context, 1, 0, 0, 0.0)

    assert waiting.host_key == HOST_KEY, "a connection that is up must not be cut"
    assert link.host_key == OTHER_KEY
    assert again.body["error"] == "relay_key_changed"
    assert before is not None
    assert after is not None
    revisions = [document.decode(Snapshot, one.payload).revision for one in (before, after)]
    assert revisions[0] < revisions[1], "machines must be told"


async def test_a_relay_in_use_is_removed_by_force_only(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, _):
        await rent(market, runtype="ssh_proxy")
        found = await known(market)
        with pytest.raises(ConfigError) as caught:
            await relay_list.remove(market.context.engine, "west")
        await relay_list.remove(market.context.engine, "west", force=True)

        assert caught.value.code == "relay_in_use"
        assert (found.machines, found.contracts, found.host_key) == (1, 1, HOST_KEY)
        assert await links(market) == ()
        assert await relay_list.known(market.context.engine) == []


async def test_two_relays_of_one_name_are_refused(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (market, _):
        with pytest.raises(ConfigError) as caught:
            await relay_list.add(market.context.engine, "west", "other.example", 2222, PORTS)
        with pytest.raises(ConfigError) as missing:
            await relay_list.forget_key(market.context.engine, "east")

    assert (caught.value.code, missing.value.code) == ("relay_exists", "relay_unknown")
