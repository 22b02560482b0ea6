"""An engine that takes questions and says nothing is noticed soon; one that is slow, or gone, is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from kaalia.errors import WorkloadError
from kaalia.health.engine_pulse import EnginePulse
from kaalia.health.engine_time import EngineTime
from kaalia.model.machine import Engine
from kaalia.runtime.container import ping
from kaalia.store.changes import Changes, Topic
from tests.support.builders import build_report
from tests.support.clock import FakeClock
from tests.support.serving import running

SOON_S = 20.0


class Dockerd:
    """Listens on a socket; hung, it answers nothing until it is well again."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.asked = 0
        self.is_well = asyncio.Event()
        self.is_well.set()
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket_path)

    async def end(self) -> None:
        """Its process ends, and all of its lines with it."""
        assert self._server is not None
        self.socket_path.unlink(missing_ok=True)
        for _ in range(10):  # whom it let in last it serves: asyncio would forget his socket
            await asyncio.sleep(0)
        self._server.close()
        self.is_well.set()
        async with asyncio.timeout(SOON_S):
            while self._lines:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        with suppress(ConnectionError, EOFError):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /_ping ")
            self.asked += 1
            await self.is_well.wait()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nOK")
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._lines.discard(writer)


class Bench:
    def __init__(self, dockerd: Dockerd, changes: Changes) -> None:
        self.dockerd = dockerd
        self.bell = changes.subscribe(Topic.ENGINE)
        self.pulse = EnginePulse(partial(ping.asked, dockerd.socket_path), changes, 0.01, 0.05)

    async def rung(self) -> None:
        async with asyncio.timeout(SOON_S):
            await self.bell.wait()
        self.bell.clear()

    async def asked(self, more: int) -> None:
        async with asyncio.timeout(SOON_S):
            wanted = self.dockerd.asked + more
            while self.dockerd.asked < wanted:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def begun(folder: Path, changes: Changes) -> AsyncIterator[Bench]:
    dockerd = Dockerd(folder / "d.sock")
    await dockerd.start()
    bench = Bench(dockerd, changes)
    async with running(bench.pulse):
        yield bench
    await dockerd.end()


async def test_an_engine_that_hangs_is_told_and_so_is_its_return(tmp_path: Path, changes: Changes) -> None:
    async with begun(tmp_path, changes) as bench:
        await bench.asked(3)
        assert not bench.bell.is_set()

        bench.dockerd.is_well.clear()

        await bench.rung()
        with pytest.raises(WorkloadError, match="it hangs") as refused:
            async with bench.pulse.beating():
                raise AssertionError("it is asked though it hangs")
        assert refused.value.code == "engine_unavailable"
        asked = bench.dockerd.asked
        await asyncio.sleep(0.2)
        assert bench.dockerd.asked == asked, "one question waits, and no more are put"
        bench.dockerd.is_well.set()
        await bench.rung()
        async with bench.pulse.beating():
            pass


async def test_what_waits_for_an_engine_that_hangs_is_given_up(tmp_path: Path, changes: Changes) -> None:
    async with begun(tmp_path, changes) as bench:
        await bench.asked(1)

        async def never() -> Engine:
            bench.dockerd.is_well.clear()
            await asyncio.sleep(3600)
            raise AssertionError

        timed = EngineTime(never, FakeClock(), bench.pulse)
        async with asyncio.timeout(SOON_S):
            with pytest.raises(WorkloadError, match="it hangs"):
                await timed.facts()
        bench.dockerd.is_well.set()


async def test_a_slow_answer_is_waited_for_while_the_engine_is_there(tmp_path: Path, changes: Changes) -> None:
    known = build_report().engine
    assert known is not None
    async with begun(tmp_path, changes) as bench:

        async def slow() -> Engine:
            await bench.asked(8)
            return known

        assert await EngineTime(slow, FakeClock(), bench.pulse).facts() is known
        assert not bench.bell.is_set()


async def test_an_engine_that_is_gone_does_not_hang(tmp_path: Path, changes: Changes) -> None:
    async with begun(tmp_path, changes) as bench:
        bench.dockerd.is_well.clear()
        await bench.rung()

        await bench.dockerd.end()

        await bench.rung()
        async with bench.pulse.beating():
            pass
        await bench.dockerd.start()
        await bench.asked(1)


async def test_a_time_limit_of_the_caller_is_his_own(tmp_path: Path, changes: Changes) -> None:
    async with begun(tmp_path, changes) as bench:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), bench.pulse.beating():
                await asyncio.sleep(3600)
