"""A kit that is missing is told until one is seen; older ones are removed now and then, by what the engine says."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import pytest

from kaalia.errors import WorkloadError
from kaalia.reconciler.kits import REMOVE_S, KitWatch
from kaalia.store import conditions
from kaalia.store.database import Database
from tests.support.clock import FakeClock


class FakeKits:
    """A folder of kits."""

    def __init__(self) -> None:
        self.is_missing = False
        self.names = {"old"}
        self.asked: list[datetime] = []

    def check(self) -> None:
        if self.is_missing:
            raise WorkloadError("kit_missing", "cannot start in ssh mode", remedy="run install.sh")

    def older(self, now: datetime) -> tuple[Path, ...]:
        self.asked.append(now)
        return tuple(Path("/kit", name) for name in sorted(self.names))

    def remove(self, older: Collection[Path], sources: Collection[str]) -> tuple[str, ...]:
        gone = tuple(path.name for path in older if str(path) not in sources)
        self.names -= set(gone)
        return gone


class FakeMounts:
    """What containers have; None: the engine does not answer."""

    def __init__(self) -> None:
        self.sources: frozenset[str] | None = frozenset()
        self.asked = 0

    async def __call__(self) -> frozenset[str]:
        self.asked += 1
        if self.sources is None:
            raise WorkloadError("engine_unavailable", "cannot list mounts")
        return self.sources


@pytest.fixture
def kits() -> FakeKits:
    return FakeKits()


@pytest.fixture
def mounts() -> FakeMounts:
    return FakeMounts()


@pytest.fixture
def watch(store: Database, kits: FakeKits, mounts: FakeMounts, clock: FakeClock) -> KitWatch:
    return KitWatch(store, kits, mounts, asyncio.Event(), clock)


async def told(store: Database) -> list[str]:
    return [one.condition.problem.code for one in await store.read(conditions.all_open) if one.source == "access"]


async def test_a_missing_kit_is_told_until_one_is_seen(store: Database, kits: FakeKits, watch: KitWatch) -> None:
    kits.is_missing = True
    await watch.look()
    first = await told(store)
    kits.is_missing = False
    await watch.look()

    assert (first, await told(store)) == (["kit_missing"], [])


async def test_what_a_daemon_before_told_goes_with_the_first_look(
    store: Database, kits: FakeKits, mounts: FakeMounts, watch: KitWatch, clock: FakeClock
) -> None:
    kits.is_missing = True
    await watch.look()
    kits.is_missing = False
    await KitWatch(store, kits, mounts, asyncio.Event(), clock).look()

    assert await told(store) == []


async def test_older_ones_go_once_nothing_has_them(
    kits: FakeKits, mounts: FakeMounts, watch: KitWatch, clock: FakeClock
) -> None:
    mounts.sources = frozenset({"/kit/old"})
    await watch.look()
    await watch.look()
    assert (kits.names, len(kits.asked)) == ({"old"}, 1), "not at each look"

    mounts.sources = frozenset()
    clock.advance(REMOVE_S)
    await watch.look()
    assert kits.names == set()
    clock.advance(REMOVE_S)
    await watch.look()
    assert mounts.asked == 2, "the engine is asked only where there are older ones"


async def test_a_silent_engine_removes_nothing_and_is_asked_again(
    kits: FakeKits, mounts: FakeMounts, watch: KitWatch
) -> None:
    mounts.sources = None
    with pytest.raises(WorkloadError):
        await watch.look()
    assert kits.names == {"old"}

    mounts.sources = frozenset()
    await watch.look()
    assert kits.names == set()


async def test_a_launch_that_found_none_is_heard_at_once(
    store: Database, kits: FakeKits, mounts: FakeMounts, clock: FakeClock
) -> None:
    changed = asyncio.Event()
    watch = KitWatch(store, kits, mounts, changed, clock)
    running = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(30):
            while not kits.asked:
                await asyncio.sleep(0.01)
            kits.is_missing = True
            changed.set()
            while await told(store) != ["kit_missing"]:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
