"""The tunnels of a daemon to a real sshd, both in a network of the test's own."""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.relay import parse_ports
from kaalia.model.relay import RENTERS_ADDRESS, LocalForward, OpenTunnel, RelayForward, RelayLink
from kaalia.model.workload import PortBinding, Protocol, WorkloadState, WorkloadStatus
from kaalia.relay import sshd
from kaalia.relay.options import Options, find_sshd
from kaalia.store import conditions, relays, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.tunnel.key import ensure_key
from kaalia.tunnel.service import FOLDER, TunnelService
from kaalia.tunnel.ssh import Connection
from kaalia.wire.relay import MachinePermit
from tests.support import own_network
from tests.support.clock import START, FakeClock
from tests.support.serving import running

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: sshd and ports of its own"),
    pytest.mark.timeout(120),
]

LOGIN_PORT, FIRST = 2222, 20000


class World:
    """A machine with a database, and a relay on loopback."""

    def __init__(self, folder: Path, database: Database, changes: Changes) -> None:
        self.folder, self.database, self.changes = folder, database, changes
        self.state = folder / "state"
        self.key = ""
        self.sshd: subprocess.Popen[bytes] | None = None
        self.link = RelayLink("west", "127.0.0.1", LOGIN_PORT, "nobody", "", FIRST, FIRST + 15)

    def start_relay(
        self, name: str = "relay", user: str | None = None, ports: tuple[int, ...] = tuple(range(FIRST, FIRST + 15))
    ) -> str:
        """Its host key. The last port of the block is not permitted, though the link says so.

        `user`: an ordinary one, that runs it; by default root does.
        """
        self.key = ensure_key(self.state / FOLDER)
        ports_of_relay = parse_ports("20000-20015")
        login, data = user or "nobody", self.folder / name
        made = Options("west", "127.0.0.1", LOGIN_PORT, ports_of_relay, "", "", data, login, find_sshd())
        host_key = sshd.prepare(made)
        sshd.write_permits(made, [MachinePermit(1, self.key, ports)])
        Path("/run/sshd").mkdir(exist_ok=True)
        argv = [str(made.sshd), "-D", "-e", "-f", str(made.data / "sshd_config")]
        (made.data / "sshd_config").write_text(sshd.config(made, is_root=user is None))
        if user is not None:
            for path in (made.data, *made.data.iterdir()):
                shutil.chown(path, user)
            for folder in made.data.parents[:-1]:
                folder.chmod(folder.stat().st_mode | 0o011)
            argv = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", "--inh-caps=-all", *argv]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.sshd = subprocess.Popen(argv, stderr=log, start_new_session=True)
        return host_key

    def kill_relay(self) -> None:
        """All of it: sessions are children of sshd, and theirs."""
        assert self.sshd is not None
        for pid in family(self.sshd.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.sshd.wait()

    async def want(self, *forwards: tuple[int, int]) -> None:
        """(port of the relay's block, local port) of contracts 1, 2 ..."""
        asked = tuple(RelayForward(number, 22, FIRST + port) for number, (port, _) in enumerate(forwards, 1))
        held = [
            WorkloadStatus(number, 1, WorkloadState.RUNNING, START, ports=(PortBinding(22, 22, local, Protocol.TCP),))
            for number, (_, local) in enumerate(forwards, 1)
        ]

        def work(tx: object) -> None:
            relays.put_links(tx, [replace(self.link, forwards=asked)])  # type: ignore[arg-type]
            for status in held:
                workloads.put(tx, status)  # type: ignore[arg-type]

        await self.database.transaction(work, Topic.CONTRACTS)

    async def pid(self) -> int | None:
        return await Connection(self.state / FOLDER, self.link.name).pid()

    async def told(self) -> list[str]:
        found = await self.database.read(conditions.all_open)
        return [one.condition.problem.code for one in found]

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        service = TunnelService(self.database, self.changes, FakeClock(), self.state, random.Random(1))
        async with running(service):
            yield


@pytest.fixture
def network() -> Iterator[None]:
    with own_network.own_network():
        yield


@pytest.fixture
async def world(
    tmp_path_factory: pytest.TempPathFactory, network: None, store: Database, changes: Changes
) -> AsyncIterator[World]:
    made = World(tmp_path_factory.mktemp("w"), store, changes)
    made.link = replace(made.link, host_key=await asyncio.to_thread(made.start_relay))
    yield made
    made.kill_relay()
    await Connection(made.state / FOLDER, made.link.name).close()


@contextmanager
def saying(word: bytes) -> Iterator[int]:
    """A server that says one word, where renters by relays come to; its port."""
    with closing(socket.create_server((RENTERS_ADDRESS, 0))) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(word)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = children.read_text().split() if children.exists() else []
    return [pid, *(each for child in below for each in family(int(child)))]


def hear(port: int) -> bytes:
    """What the relay's port says; empty when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", FIRST + port), 5) as connection:
            return connection.recv(100)
    except OSError:
        return b""


async def until(what: str, look: object, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not (await look() if asyncio.iscoroutinefunction(look) else await asyncio.to_thread(look)):  # type: ignore[arg-type]
            await asyncio.sleep(0.05)


async def test_forwards_come_and_go_on_one_connection(world: World) -> None:
    with saying(b"one") as one, saying(b"two") as two:
        async with world.daemon():
            await world.want((0, one))
            await until("one", lambda: hear(0) == b"one")
            pid = await world.pid()
            await world.want((0, one), (1, two))
            await until("two", lambda: hear(1) == b"two")
            await world.want((0, two))
            await until("another target of the same port", lambda: hear(0) == b"two")
            await until("no other", lambda: hear(1) == b"")

            assert await world.pid() == pid
            assert await world.told() == []
            await world.want()

            async def is_forgotten() -> bool:
                return await world.database.read(relays.tunnels) == {}

            await until("the end", is_forgotten)
            assert await world.pid() is None


async def test_a_daemon_finds_the_connection_of_an_earlier_one(world: World) -> None:
    with saying(b"one") as one, saying(b"two") as two:
        async with world.daemon():
            await world.want((0, one), (1, two))
            await until("both", lambda: hear(0) == b"one" and hear(1) == b"two")
            pid = await world.pid()
        assert hear(0) == b"one", "it outlives the daemon"

        await world.want((2, one))
        async with world.daemon():
            await until("the change", lambda: hear(2) == b"one")
            await until("what is over", lambda: hear(0) == hear(1) == b"")
            assert await world.pid() == pid


async def test_a_forward_of_an_earlier_version_is_made_anew(world: World) -> None:
    """It led to 127.0.0.1, where nobody counts what renters move. The connection, and so every session, stays."""
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((0, one))
            await until("one", lambda: hear(0) == b"one")
        connection, new = Connection(world.state / FOLDER, world.link.name), LocalForward(FIRST, one, RENTERS_ADDRESS)
        old, pid = LocalForward(FIRST, one), await connection.pid()
        await connection.cancel(new)
        await connection.forward(old)
        tunnel = OpenTunnel(world.link.name, world.link.endpoint, (old,))
        await world.database.transaction(lambda tx: relays.put_tunnel(tx, tunnel))
        assert hear(0) == b"", "as it was before"

        async with world.daemon():
            await until("one", lambda: hear(0) == b"one")
            assert await connection.pid() == pid


async def test_a_killed_connection_comes_back(world: World) -> None:
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((0, one))
            await until("one", lambda: hear(0) == b"one")
            pid = await world.pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until("its return", lambda: hear(0) == b"one")

            assert await world.pid() != pid


async def test_a_relay_that_died_is_told_and_found_again(world: World) -> None:
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((0, one))
            await until("one", lambda: hear(0) == b"one")
            world.kill_relay()

            async def is_told() -> bool:
                return await world.told() == ["relay_down"]

            async def is_over() -> bool:
                return await world.told() == []

            await until("relay_down", is_told)
            await asyncio.to_thread(world.start_relay)
            await until("its return", lambda: hear(0) == b"one", 60)
            await until("the all-clear", is_over)


async def test_another_host_key_is_never_trusted(world: World) -> None:
    """Neither one that changed nor, at the first login, one that the marketplace did not name."""
    world.kill_relay()
    await asyncio.to_thread(world.start_relay, "impostor")
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((0, one))

            async def is_told() -> bool:
                return await world.told() == ["relay_key_changed"]

            await until("relay_key_changed", is_told)
    assert "Accepted" not in (world.folder / "impostor.log").read_text()
    assert hear(0) == b""


async def test_a_port_that_is_refused_takes_no_other_along(world: World) -> None:
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((15, one), (0, one))
            await until("the one that is permitted", lambda: hear(0) == b"one")

            async def is_told() -> bool:
                return await world.told() == ["relay_port_refused"]

            await until("relay_port_refused", is_told)
            pid = await world.pid()
            await world.want((0, one))
            await until("the other", lambda: hear(0) == b"one")

            assert await world.pid() == pid


async def test_without_ssh_it_is_told_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    await world.want((0, 9))
    async with world.daemon():

        async def is_told() -> bool:
            return await world.told() == ["ssh_missing"]

        await until("ssh_missing", is_told)
    assert await world.database.read(relays.get_key) is None


async def test_a_relay_needs_no_root(world: World) -> None:
    world.kill_relay()
    host_key = await asyncio.to_thread(world.start_relay, "ordinary", "games")
    world.link = replace(world.link, host_key=host_key, user="games")
    with saying(b"one") as one:
        async with world.daemon():
            await world.want((15, one), (0, one))
            await until("one", lambda: hear(0) == b"one")

    assert hear(15) == b"", "what is not permitted is refused there too"
