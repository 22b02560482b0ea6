"""A daemon as a process, told to tell: what it noticed reaches the owner through crashes, and once."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.client import LocalClient
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.store import conditions
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from kaalia.wire.notification import NotifyDocument
from tests.daemon.test_run import Home
from tests.notify.test_secret import HMAC_SECRET
from tests.support.clock import START
from tests.support.owner import receiver, secret_file
from tests.support.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


async def plant(home: Home) -> None:
    """A fault in the state of a daemon that is to start, of a source that no service owns."""
    home.state.mkdir(mode=0o700)
    database = Database(home.state / "state.db", Changes())
    await database.open()
    wrong = Condition(Problem("gpu_lost", "cannot see GPU 3"), Severity.CRITICAL, "it is back")
    await database.transaction(lambda tx: conditions.replace(tx, "planted", [wrong], START))
    await database.close()


def test_a_crash_before_the_delivery_loses_nothing_and_repeats_nothing(home: Home, tmp_path: Path) -> None:
    asyncio.run(plant(home))
    with receiver() as to:
        to.answers = [503]
        hook = {"url": to.url, "secret_file": str(secret_file(tmp_path / "secret", HMAC_SECRET))}
        home.configure(notify={"delay_s": 0, "webhooks": {"ops": hook}})
        client = LocalClient(tmp_path / "s")

        def shown() -> NotifyDocument:
            return client.notifications()

        first = home.start()
        home.running()
        wait_until("the first try to fail", lambda: any(one.failures for one in shown().channels), 100)
        first.kill()
        first.wait()
        told_before = len(to.got)

        home.start()
        home.running()
        wait_until("the message to be taken", lambda: not any(one.waiting for one in shown().channels), 100)
        lost = [got for got in to.got if json.loads(got.body)["data"]["code"] == "gpu_lost"]

    assert told_before == 1
    assert len({got.headers["webhook-id"] for got in lost}) == 1
    assert len(lost) == 2
