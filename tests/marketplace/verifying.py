"""A machine that signs what it says, on its way to being verified."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from kaalia.contracts.fitness import Fault
from kaalia.marketplace import machines
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.health import Severity
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import SelfTestRun
from kaalia.model.verification import VerificationView
from kaalia.wire.protocol import MessageKind, StatusMessage, TaskRequest, Verb
from tests.marketplace.liar import Liar, open_liar
from tests.support.clock import START
from tests.support.sound import notice, sound_report, whole_run

HOUR = timedelta(hours=1).total_seconds()


@asynccontextmanager
async def open_machine(folder: Path, report: MachineReport | None = None, **settings: Any) -> AsyncIterator[Liar]:
    """A listed machine that has reported what it is."""
    async with open_liar(folder, **settings) as liar:
        await liar.post(StatusMessage(1, MessageKind.REPORT, report=report or sound_report()), conditions=())
        body = {"machine": liar.machine_id, "price_gpu": 0.4, "price_disk": 0}
        answer = await liar.market.host.call("PUT", "/api/v0/machines/create_asks/", body)
        assert answer.status == 200, answer.body
        yield liar


@asynccontextmanager
async def open_verified(folder: Path, **settings: Any) -> AsyncIterator[Liar]:
    async with open_machine(folder, **settings) as liar:
        await prove(liar)
        assert (await record(liar)).verification == "verified"
        yield liar


async def prove(liar: Liar, run_id: int = 1, **changes: Any) -> SelfTestRun:
    run = whole_run(liar.market.clock.now(), run_id, **changes)
    await beat(liar, selftests=(notice(run),))
    return run


async def beat(liar: Liar, *messages: StatusMessage, after_s: float = 60.0, **changes: Any) -> None:
    liar.market.clock.advance(after_s)
    await liar.post(*messages, **{"conditions": (), **changes})


async def record(liar: Liar) -> MachineRecord:
    async with liar.market.context.engine.begin() as tx:
        found = await machines.get(tx, liar.machine_id)
    assert found is not None
    return found


async def view(liar: Liar) -> VerificationView:
    """As the machine is told it, signed."""
    snapshot = await liar.look()
    assert snapshot is not None
    assert snapshot.standing is not None
    assert snapshot.standing.view is not None
    assert snapshot.standing.verification == snapshot.standing.view.state
    return snapshot.standing.view


async def orders(liar: Liar) -> list[TaskRequest]:
    snapshot = await liar.look()
    assert snapshot is not None
    return [task for task in snapshot.tasks if task.verb is Verb.SELF_TEST]


def xid(scope: str = "GPU-00000001") -> Fault:
    return Fault(scope, "gpu_xid_79", Severity.CRITICAL, START, "cannot count on the GPU: Xid 79")
