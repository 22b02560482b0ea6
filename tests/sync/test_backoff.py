import random

import pytest

from kaalia.errors import KaaliaError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.sync.backoff import Backoff

DOWN = UnreachableError("marketplace_unreachable", "cannot reach it")


def test_waits_grow_to_a_minute_and_are_spread() -> None:
    backoff = Backoff(random.Random(1))
    waits = [backoff.next_s(DOWN) for _ in range(20)]
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2
    assert all(30 <= wait_s <= 60 for wait_s in waits[6:])
    assert Backoff(random.Random(2)).next_s(DOWN) != Backoff(random.Random(3)).next_s(DOWN)


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(random.Random(1))
    assert max(backoff.next_s(DOWN) for _ in range(5000)) <= 60


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
