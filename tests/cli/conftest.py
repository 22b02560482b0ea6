"""A daemon's local API with a rented machine behind it, and a way to run commands in this process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import pytest

from kaalia.api.app import LocalApiService
from kaalia.api.context import Context
from kaalia.cli.main import main
from kaalia.contracts.offer import Listing
from kaalia.store import claims, contracts, enrolment, machine, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from tests.support.builders import build_contract, build_gpus, build_report, build_status
from tests.support.clock import START, FakeClock


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]
T = TypeVar("T")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; what it wrote and how it ended."""

    def call(*args: str) -> Result:
        try:
            code = main(list(args))
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


class Daemon:
    """A local API on a thread with a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self._changes = Changes()
        self._database = Database(folder / "state.db", self._changes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._service: Future[None] | None = None

    def start(self) -> None:
        self._thread.start()
        clock = FakeClock()
        context = Context(self._database, clock, clock.now() - timedelta(hours=5))
        asyncio.run_coroutine_threadsafe(self._database.open(), self._loop).result(30)
        self._service = asyncio.run_coroutine_threadsafe(LocalApiService(self.socket, context).run(), self._loop)
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(context.listening.wait(), 30), self._loop).result(31)

    def read(self, work: Callable[[Transaction], T]) -> T:
        return asyncio.run_coroutine_threadsafe(self._database.read(work), self._loop).result(30)

    def write(self, work: Callable[[Transaction], None]) -> None:
        asyncio.run_coroutine_threadsafe(self._database.transaction(work), self._loop).result(30)

    def stop(self) -> None:
        assert self._service is not None
        self._service.cancel()
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _settle(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await self._database.close()
        await self._loop.shutdown_default_executor()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def rented(daemon: Daemon) -> Daemon:
    """Eight simulated GPUs, listed, two contracts, one of them running."""

    def fill(tx: Transaction) -> None:
        enrolment.put(tx, enrolment.Enrolment("https://market.example", 12, {"k": "x"}, START))
        not_after = START + timedelta(minutes=30)
        enrolment.put_snapshot(tx, enrolment.AcceptedSnapshot(1, 5, not_after, "{}", START - timedelta(seconds=12)))
        machine.put_report(tx, build_report(gpus=8))
        machine.put_listing(tx, Listing(Decimal("0.40")))
        contracts.upsert(tx, build_contract(51), START)
        contracts.upsert(tx, build_contract(52), START)
        workloads.put(tx, build_status(51))
        claims.claim(tx, [claims.Claim(claims.ClaimKind.GPU, build_gpus(1)[0].uuid, 51, 1)], START)

    daemon.write(fill)
    return daemon
