"""Links, tunnels and the key in the store."""

from dataclasses import replace

from kaalia.model.relay import LocalForward, OpenTunnel, RelayForward, RelayLink
from kaalia.model.workload import PortBinding, Protocol, WorkloadState, WorkloadStatus
from kaalia.store import relays, workloads
from kaalia.store.database import Database
from tests.support.clock import START

LINK = RelayLink("west", "203.0.113.1", 2222, "nobody", "ssh-ed25519 A", 20000, 20015)


async def test_what_is_wanted_follows_the_ports_that_workloads_hold(store: Database) -> None:
    """UDP of the same number is another port; a contract without a workload wants nothing yet."""
    link = replace(LINK, forwards=(RelayForward(7, 22, 20001), RelayForward(8, 22, 20002)))
    ports = (PortBinding(22, 22, 40001, Protocol.UDP), PortBinding(22, 22, 40022, Protocol.TCP))
    stopped = WorkloadStatus(7, 1, WorkloadState.STOPPED, START, ports=ports)
    await store.transaction(lambda tx: relays.put_links(tx, [link]))
    assert await store.read(relays.wanted) == {link: frozenset()}

    await store.transaction(lambda tx: workloads.put(tx, stopped))
    assert await store.read(relays.wanted) == {link: {LocalForward(20001, 40022, "127.107.97.1")}}

    await store.transaction(lambda tx: relays.put_links(tx, []))
    assert await store.read(relays.wanted) == {}


async def test_tunnels_come_back_whole_and_go(store: Database) -> None:
    tunnel = OpenTunnel("west-20000", "nobody@203.0.113.1:2222", (LocalForward(20001, 40022),))
    await store.transaction(lambda tx: relays.put_tunnel(tx, replace(tunnel, forwards=())))
    await store.transaction(lambda tx: relays.put_tunnel(tx, tunnel))
    assert await store.read(relays.tunnels) == {"west-20000": tunnel}

    await store.transaction(lambda tx: relays.forget_tunnel(tx, "west-20000"))
    assert await store.read(relays.tunnels) == {}


async def test_the_key_is_the_newest_one(store: Database) -> None:
    assert await store.read(relays.get_key) is None
    for key in ("ssh-ed25519 A", "ssh-ed25519 B"):
        await store.transaction(lambda tx, key=key: relays.put_key(tx, key))  # type: ignore[misc]

    assert await store.read(relays.get_key) == "ssh-ed25519 B"
