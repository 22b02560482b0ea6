"""The bell: heard by those who listen, never lost, never twice."""

import asyncio

from kaalia.store.changes import Changes, Topic, wait


async def test_a_ring_before_the_wait_is_heard_once(changes: Changes) -> None:
    bell = changes.subscribe(Topic.CONTRACTS)
    changes.ring(Topic.CONTRACTS)
    changes.ring(Topic.CONTRACTS)

    assert await wait(bell, 1.0)
    assert not await wait(bell, 0.01)


async def test_only_the_subscribed_topics_ring(changes: Changes) -> None:
    bell = changes.subscribe(Topic.CONTRACTS, Topic.MACHINE)

    changes.ring(Topic.OUTBOX)
    assert not bell.is_set()
    changes.ring(Topic.MACHINE)
    assert bell.is_set()


async def test_every_subscriber_hears_for_himself(changes: Changes) -> None:
    first, second = changes.subscribe(Topic.TASKS), changes.subscribe(Topic.TASKS)
    changes.ring(Topic.TASKS)

    assert await wait(first, 1.0)
    assert second.is_set()


async def test_a_ring_wakes_a_waiter(changes: Changes) -> None:
    bell = changes.subscribe(Topic.OUTBOX)
    asyncio.get_running_loop().call_later(0.01, changes.ring, Topic.OUTBOX)

    assert await wait(bell, None)


async def test_a_cancellation_together_with_a_ring_is_not_lost(changes: Changes) -> None:
    bell = changes.subscribe(Topic.OUTBOX)
    waiter = asyncio.create_task(wait(bell, 10.0))
    await asyncio.sleep(0.01)

    changes.ring(Topic.OUTBOX)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)

    assert waiter.cancelled()


async def test_a_later_ring_comes_later(changes: Changes) -> None:
    bell = changes.subscribe(Topic.OUTBOX)

    changes.ring_later(Topic.OUTBOX, 0.05)

    assert not bell.is_set()
    assert await wait(bell, 2.0)
