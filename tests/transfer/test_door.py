"""Doors and their bounds, as shipped: connections on this machine, served by a cell that lets in when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kaalia.contracts import copying
from kaalia.model.copying import Holder, HolderKind
from kaalia.service import Tasks, run_forever
from kaalia.transfer.door import CONNECTIONS_ALL_MAX, SESSIONS_ALL_MAX, SESSIONS_MAX, Access, Door, listen
from kaalia.transfer.lobby import ADDRESS_MAX, LOBBY_MAX, Lobby
from kaalia.wire import signature
from tests.support.clock import FakeClock

HOLDER = Holder(HolderKind.VOLUME, 901)


@dataclass
class Cells:
    """What serves the connections. `is_slow_to_end`: as a cell whose connection is gone and that is not."""

    let_in: list[Callable[[str], None]] = field(default_factory=list)
    is_slow_to_end: bool = False

    async def serve(self, holder: Holder, access: Access, connection: int, let_in: Callable[[str], None]) -> None:
        assert (holder, len(access.keys)) == (HOLDER, 1)
        self.let_in.append(let_in)
        gone, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(connection, gone.set)  # nobody sends a byte: it is the end
        try:
            await gone.wait()
        finally:
            loop.remove_reader(connection)
        if self.is_slow_to_end:
            await asyncio.Event().wait()


@dataclass
class Scene:
    cells: Cells
    doors: list[Door]
    key: str

    @property
    def connections(self) -> int:
        return sum(one.sessions for one in self.doors)

    async def come(self, address: str, door: int = 0) -> asyncio.StreamReader | None:
        """None: it was hung up on at once. The connection is held as long as what is returned."""
        before = len(self.cells.let_in)
        port = self.doors[door].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        held.append(writer)
        async with asyncio.timeout(30):
            while len(self.cells.let_in) == before and not reader.at_eof():
                await asyncio.sleep(0.002)
        return None if len(self.cells.let_in) == before else reader

    async def prove(self, address: str = "127.0.0.1", door: int = 0) -> asyncio.StreamReader | None:
        """The same, and proves the key; None if that was of no use."""
        reader = await self.come(address, door)
        if reader is None:
            return None
        before = self.doors[door].proven
        self.cells.let_in[-1](copying.fingerprint(self.key))
        return reader if self.doors[door].proven == before + 1 else None


held: list[asyncio.StreamWriter] = []


@asynccontextmanager
async def scene(count: int = 1) -> AsyncIterator[Scene]:
    key = signature.openssh_public(signature.generate_key())
    cells, lobby, clock, accepting = Cells(), Lobby(), FakeClock(), Tasks()
    doors: list[Door] = []
    for number in range(count):
        door = Door(HOLDER, listen(0, by_ipv6=False), cells.serve, clock, lambda: doors, lobby)
        door.grant((key,))
        doors.append(door)
        accepting.start(number, run_forever("door", door.accept))
    try:
        yield Scene(cells, doors, key)
    finally:
        await accepting.close()
        for door in doors:
            await door.close()
        for writer in held:
            writer.close()
        held.clear()


async def ended(reader: asyncio.StreamReader | None) -> None:
    assert reader is not None
    async with asyncio.timeout(30):
        assert await reader.read() == b""


async def test_a_full_lobby_of_strangers_keeps_no_renter_out() -> None:
    async with scene() as here:
        assert LOBBY_MAX == 2 * ADDRESS_MAX
        strangers = [await here.come(f"127.0.0.{2 + number % 2}") for number in range(LOBBY_MAX)]
        assert None not in strangers
        for number in range(SESSIONS_MAX):
            assert await here.prove() is not None, number
        await ended(strangers[0])
        assert await here.come("127.0.0.4") is None, "a door's sessions are all taken"


async def test_who_proves_a_key_when_all_sessions_are_taken_is_hung_up_on() -> None:
    async with scene(3) as here:
        late = await here.come("127.0.0.2", 2)
        prove = here.cells.let_in[-1]
        for number in range(SESSIONS_ALL_MAX):
            assert await here.prove(door=number % 2) is not None, number
        assert await here.come("127.0.0.3", 2) is None
        prove(copying.fingerprint(here.key))
        assert here.doors[2].proven == 0
        await ended(late)


async def test_what_was_hung_up_on_counts_for_its_address_until_it_is_over() -> None:
    async with scene() as here:
        here.cells.is_slow_to_end = True
        for number in range(LOBBY_MAX):
            assert await here.come(f"127.0.0.{2 + number % 2}") is not None
        assert await here.come("127.0.0.4") is not None
        assert await here.come("127.0.0.2") is None, "its first one is hung up on, and not over"
        count = LOBBY_MAX + 1
        for number in range(CONNECTIONS_ALL_MAX - count):
            assert await here.come(f"127.0.1.{number + 1}") is not None, number
        assert here.connections == CONNECTIONS_ALL_MAX
        assert await here.come("127.0.2.1") is None


async def test_a_key_that_was_withdrawn_while_its_cell_began_lets_nobody_in() -> None:
    async with scene() as here:
        door = here.doors[0]
        reader = await here.come("127.0.0.2")
        door.grant((signature.openssh_public(signature.generate_key()),))
        here.cells.let_in[-1](copying.fingerprint(here.key))
        assert door.proven == 0
        await ended(reader)
