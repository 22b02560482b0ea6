"""A bench for what tests the machine."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia import __version__
from kaalia.model.machine import Network
from kaalia.runtime.base import ImageFacts
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.reconciler.rig import Rig
from tests.selftest.bench import IMAGE, JUPYTER_IMAGE, SAID, Bench
from tests.selftest.trials import Trial
from tests.support.builders import build_report
from tests.support.canaries import AnsweringRuntime
from tests.support.clock import FakeClock
from tests.support.free_range import free_range


@pytest_asyncio.fixture
async def bench(store: Database, changes: Changes, clock: FakeClock) -> AsyncIterator[Bench]:
    runtime = AnsweringRuntime(clock, SAID)
    rig = Rig(store, changes, clock, runtime)
    report = build_report(clock.now(), agent_version=__version__, network=Network("203.0.113.7", (), free_range(50)))
    assert report.engine is not None
    report = replace(report, engine=replace(report.engine, enforces_disk_size=True))
    await rig.prepare(report)
    runtime.add_image(IMAGE, ImageFacts("sha256:" + "2" * 64))
    runtime.add_image(JUPYTER_IMAGE, ImageFacts("sha256:" + "3" * 64))
    made = Bench(rig, runtime, clock, report)
    yield made
    await made.services.aclose()
    await rig.service.detach()
    runtime.shut()
    assert runtime.violations == []


@pytest.fixture
def trial(bench: Bench, tmp_path: Path) -> Trial:
    bench.every = None
    return Trial(bench, tmp_path)
