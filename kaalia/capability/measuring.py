"""One speed test, both ways: child processes move the bytes, this one asks them now and then how many.

The daemon's loop never touches the bytes. Whatever is wrong with the peer is an error with a code, never a number.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kaalia.contracts.speed import Sample, figure
from kaalia.errors import HostError
from kaalia.host.process import Child
from kaalia.model.speed import Direction, Figure, SpeedProgress

MOVER = (sys.executable, "-I", "-m", "kaalia.speed.mover")
PROCESSES_MAX = 4
POLL_S = 0.1
TELL_S = 0.5
OPEN_S = 30.0
"""Of one process: its streams are opened one after the other, 10 s at worst for each that is refused late."""
ANSWER_S = 5.0
END_S = 25.0
"""After the time of a direction: what is on its way, and the peer's report of it."""

Tell = Callable[[SpeedProgress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """An order as the streams need it. `order` and `key` in hex; `seconds` and `bytes_max` of one direction."""

    host: str
    port: int
    order: str
    key: str = field(repr=False)
    streams: int
    seconds: int
    bytes_max: int
    limited: bool = False

    @property
    def processes(self) -> int:
        return max(1, min(PROCESSES_MAX, os.cpu_count() or 1, self.streams))


async def measure(plan: Plan, tell: Tell) -> tuple[Figure, Figure]:
    """Down, then up. Raises HostError `speed_*`, or what a child that does not run raises."""
    down = await one_way(plan, Direction.DOWN, tell)
    return down, await one_way(plan, Direction.UP, tell)


async def one_way(plan: Plan, direction: Direction, tell: Tell) -> Figure:
    async with _movers(plan.processes) as movers:
        await asyncio.gather(*(_ask(each, _order(plan, direction, at), OPEN_S) for at, each in enumerate(movers)))
        counted, cpu_s = await _follow(plan, direction, movers, tell)
        await _see_end(movers)
    return figure(direction, counted, cpu_s, limited=plan.limited)


@asynccontextmanager
async def _movers(count: int) -> AsyncIterator[list[Child]]:
    async with AsyncExitStack() as stack:
        movers = []
        for _ in range(count):
            mover = await Child.start(MOVER)
            stack.push_async_callback(mover.kill)
            movers.append(mover)
        yield movers


def _order(plan: Plan, direction: Direction, at: int) -> dict[str, Any]:
    return {
        "do": "open",
        "host": plan.host,
        "port": plan.port,
        "order": plan.order,
        "key": plan.key,
        "direction": direction.value,
        "indexes": list(range(at, plan.streams, plan.processes)),
        "streams": plan.streams,
        "seconds": plan.seconds,
        "bytes_max": plan.bytes_max,
    }


async def _follow(
    plan: Plan, direction: Direction, movers: Sequence[Child], tell: Tell
) -> tuple[list[list[Sample]], float]:
    """Samples of each process until the first stream ends, and the processor time of all between first and last."""
    answers = await asyncio.gather(*(_ask(each, {"do": "go"}, ANSWER_S) for each in movers))
    first_cpu_s = last_cpu_s = sum(one["cpu_s"] for one in answers)
    counted = [[Sample(one["at_s"], one["bytes"])] for one in answers]
    began_s = told_s = time.monotonic()
    told_bytes = 0
    while time.monotonic() < began_s + plan.seconds + END_S:
        await asyncio.sleep(POLL_S)
        answers = await asyncio.gather(*(_ask(each, {"do": "sample"}, ANSWER_S) for each in movers))
        last_cpu_s = sum(one["cpu_s"] for one in answers)
        for samples, one in zip(counted, answers, strict=True):
            samples.append(Sample(one["at_s"], one["bytes"]))
        if any(one["is_any_done"] for one in answers):
            break
        now_s = time.monotonic()
        if now_s - told_s >= TELL_S:
            total = sum(one["bytes"] for one in answers)
            mbps = (total - told_bytes) * 8 / (now_s - told_s) / 1e6
            share = min(1.0, max((now_s - began_s) / plan.seconds, total / plan.bytes_max))
            told_s, told_bytes = now_s, total
            await tell(SpeedProgress(direction, (share + (direction is Direction.UP)) / 2, round(mbps, 1)))
    return counted, last_cpu_s - first_cpu_s


async def _see_end(movers: Sequence[Child]) -> None:
    """No stream may end otherwise than agreed, and of what was sent the peer must speak the truth."""
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        answers = await asyncio.gather(*(_ask(each, {"do": "sample"}, ANSWER_S) for each in movers))
        if all(one["is_over"] for one in answers):
            return
        await asyncio.sleep(POLL_S)
    raise HostError("speed_stalled", f"cannot measure: the streams have not ended {END_S:g} s after their time")


async def _ask(mover: Child, what: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await mover.request(json.dumps(what), deadline_s))
    if error := answer.get("error"):
        raise HostError(error["code"], error["message"], remedy=error["remedy"])
    return answer
