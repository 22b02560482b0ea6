"""Whose turn it is to copy."""

import asyncio
from collections.abc import Sequence

from kaalia.model.copying import Holder, HolderKind
from kaalia.service import Tasks
from kaalia.transfer.turns import AT_ONCE_MAX, HOLDER_MAX, Turns

ONE, TWO, THREE, FOUR = (Holder(HolderKind.INSTANCE, number) for number in range(1, 5))


class Scene:
    """Copies that go on until they are ended by name."""

    def __init__(self) -> None:
        self.turns, self.tasks = Turns(), Tasks()
        self.going, self.told = list[str](), list[str]()

    async def begin(self, name: str, *holders: Holder) -> None:
        self.tasks.start(name, self._copy(name, holders))
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self.tasks.cancel(name)
        for _ in range(4):
            await asyncio.sleep(0)

    async def _copy(self, name: str, holders: Sequence[Holder]) -> None:
        async def wait() -> None:
            self.told.append(name)

        async with self.turns.taken(holders, wait):
            self.going.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.going.remove(name)


async def test_a_holder_has_so_many_turns_and_others_pass_by() -> None:
    scene = Scene()
    assert (AT_ONCE_MAX, HOLDER_MAX) == (4, 2)
    for name in ("a", "b", "c", "d"):
        await scene.begin(name, ONE)
    await scene.begin("e", TWO, ONE)
    await scene.begin("f", TWO, THREE)
    assert (scene.going, scene.told) == (["a", "b", "f"], ["c", "d", "e"])
    await scene.end("c")
    await scene.end("a")
    assert scene.going == ["b", "f", "d"]
    await scene.end("b")
    assert scene.going == ["f", "d", "e"]
    await scene.tasks.close()


async def test_there_are_so_many_turns_given_in_order() -> None:
    scene = Scene()
    for number, holder in enumerate((ONE, TWO, ONE, TWO, THREE, FOUR, ONE)):
        await scene.begin(str(number), holder)
    assert (scene.going, scene.told) == (["0", "1", "2", "3"], ["4", "5", "6"])
    await scene.end("1")
    await scene.end("3")
    assert scene.going == ["0", "2", "4", "5"]
    await scene.end("4")
    assert scene.going == ["0", "2", "5"], "the last one's holder has two"
    await scene.end("0")
    assert scene.going == ["2", "5", "6"]
    await scene.tasks.close()
    assert scene.going == []
