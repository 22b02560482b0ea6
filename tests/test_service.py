"""Background tasks are owned from their start to their end."""

import asyncio

import pytest

from kaalia.service import Tasks, guarded


async def test_a_task_that_follows_another_at_once_is_not_forgotten_with_it() -> None:
    tasks, is_over, gate = Tasks(), asyncio.Event(), asyncio.Event()

    async def first() -> None:
        is_over.set()

    async def second() -> None:
        await gate.wait()

    tasks.start("key", first())
    while not is_over.is_set():
        await asyncio.sleep(0)
    tasks.start("key", second())  # before the loop has told anyone that the first is done
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert tasks.busy("key")
    await tasks.close()
    assert len(tasks) == 0


async def test_cancelling_reaches_the_task_that_runs() -> None:
    tasks = Tasks()

    async def work() -> None:
        await asyncio.Event().wait()

    tasks.start("key", work())
    tasks.cancel("key")
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert not tasks.busy("key")


async def test_guarded_work_ends_with_its_answer_and_the_guard_with_it() -> None:
    ended = asyncio.Event()

    async def guard() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await guarded(work(), guard()) == 7
    assert ended.is_set()


async def test_an_error_of_the_guard_breaks_the_work_off_before_it_is_raised() -> None:
    ended = asyncio.Event()

    async def guard() -> None:
        await asyncio.sleep(0)
        raise LookupError("somebody came")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(LookupError, match="somebody came"):
        await guarded(work(), guard())
    assert ended.is_set()
