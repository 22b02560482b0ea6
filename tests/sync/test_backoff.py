import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest

from kaalia.errors import KaaliaError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.sync.backoff import Backoff
from tests.support import virtual_time

DOWN = UnreachableError("marketplace_unreachable", "cannot reach it")


def test_waits_grow_to_20_seconds_and_are_spread() -> None:
    backoff = Backoff(random.Random(1))
    waits = [backoff.next_s(DOWN) for _ in range(20)]
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2
    assert all(10 <= wait_s <= 20 for wait_s in waits[6:])
    assert Backoff(random.Random(2)).next_s(DOWN) != Backoff(random.Random(3)).next_s(DOWN)


def test_waits_after_refusals_grow_to_a_minute() -> None:
    backoff = Backoff(random.Random(1))
    waits = [backoff.next_s(MarketplaceError("snapshot_stale", "cannot accept")) for _ in range(20)]
    assert all(30 <= wait_s <= 60 for wait_s in waits[6:])


async def attempts_in_an_outage(seed: int, outage_s: float, attempt_s: float) -> list[float]:
    """When attempts began, in an outage of which each attempt takes so long to notice; the last one succeeds."""
    loop, backoff = asyncio.get_running_loop(), Backoff(random.Random(seed))
    began: list[float] = []

    async def work() -> None:
        began.append(loop.time())
        if loop.time() < outage_s:
            await asyncio.sleep(attempt_s)
            raise DOWN

    while not began or began[-1] < outage_s:
        await backoff.guard("desired state", work)
    return began


@pytest.mark.parametrize("attempt_s", [0.0, 10.0], ids=["refused", "swallowed"])
def test_after_hours_without_a_marketplace_it_is_heard_of_within_20_seconds(attempt_s: float) -> None:
    outage_s = 4 * 3600.0
    for seed in range(20):
        began = virtual_time.run(attempts_in_an_outage(seed, outage_s, attempt_s))

        assert max(after - before for before, after in pairwise(began)) <= 20
        assert began[-1] - outage_s <= 20
        assert 0.9 * outage_s / 20 <= len(began) <= outage_s / 10 + 10


def test_machines_that_lost_the_same_marketplace_come_back_spread() -> None:
    async def all_of_them() -> list[list[float]]:
        return await asyncio.gather(*(attempts_in_an_outage(seed, 600, 0) for seed in range(500)))

    back = Counter(int(began[-1]) for began in virtual_time.run(all_of_them()))

    assert max(back.values()) <= 2 * 500 / 15
    assert len(back) >= 18


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(random.Random(1))
    assert max(backoff.next_s(DOWN) for _ in range(5000)) <= 20


def test_retry_after_is_honoured() -> None:
    asked = UnreachableError("busy", "cannot answer", retry_after_s=17)
    assert 17 <= Backoff(random.Random(1)).next_s(asked) <= 18


def test_refused_key_is_not_tried_every_second() -> None:
    assert Backoff(random.Random(1)).next_s(UnauthorizedError("signature_invalid", "cannot accept")) >= 30


async def test_outage_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    backoff = Backoff(random.Random(1))
    failing: list[MarketplaceError] = [UnreachableError("busy", "cannot answer", retry_after_s=-1)] * 3

    async def work() -> None:
        if failing:
            raise failing.pop()

    for _ in range(5):
        await backoff.guard("status", work)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_errors_of_this_machine_pass_through() -> None:
    async def work() -> None:
        raise KaaliaError("state_disk_full", "cannot write")

    with pytest.raises(KaaliaError):
        await Backoff(random.Random(1)).guard("status", work)
