import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.contracts import fitness
from kaalia.errors import MarketplaceError, Problem, WorkloadError
from kaalia.model.health import Condition, Severity
from kaalia.model.workload import WorkloadState
from kaalia.runtime.base import Progress, RegistryLogin
from kaalia.store import conditions, contracts, intents, tasks
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.sync import tasks as module
from kaalia.sync.backoff import Backoff
from kaalia.sync.snapshots import TakeSnapshot
from kaalia.sync.tasks import Execute, ReadLogs, Search, TaskRunner
from kaalia.wire.protocol import RegistryLoginReply, TaskRequest, TaskResult, Verb
from tests.marketplace.support import Market
from tests.sync.support import Machine, contract, open_pair, rent, status

CONTRACT_ID = 5


async def two_lines(contract_id: int, tail: int) -> str:
    return f"contract {contract_id} tail {tail}\nan error\n"


def runner_of(
    host: Machine,
    logs: ReadLogs = two_lines,
    execute: Execute | None = None,
    search: Search | None = None,
    snapshot: TakeSnapshot | None = None,
) -> TaskRunner:
    bell = host.changes.subscribe(Topic.TASKS)
    backoff = Backoff(random.Random(1))
    return TaskRunner(
        host.database,
        host.client,
        host.clock,
        bell,
        logs,
        lambda: backoff,
        execute=execute,
        search=search,
        snapshot=snapshot,
    )


def request(host: Machine, **changes: object) -> TaskRequest:
    fields: dict[str, object] = {
        "task_id": "t1",
        "verb": Verb.LOGS,
        "contract_id": CONTRACT_ID,
        "deadline_at": host.clock.now() + timedelta(seconds=60),
        "tail": 10,
    }
    return TaskRequest(**{**fields, **changes})  # type: ignore[arg-type]


@asynccontextmanager
async def open_host(folder: Path) -> AsyncIterator[tuple[Market, Machine]]:
    """A machine with one contract."""
    async with open_pair(folder) as (market, host):
        await host.database.transaction(lambda tx: contracts.upsert(tx, contract(CONTRACT_ID), host.clock.now()))
        yield market, host


async def test_logs_are_read_and_filtered(tmp_path: Path) -> None:
    async with open_host(tmp_path) as (_, host):
        runner = runner_of(host)
        plain = await runner.answer(request(host))
        filtered = await runner.answer(request(host, filter="err.r"))

    assert plain == TaskResult("contract 5 tail 10\nan error\n")
    assert filtered == TaskResult("an error\n")


async def test_unknown_contracts_and_verbs_are_refused(tmp_path: Path) -> None:
    async with open_host(tmp_path) as (_, host):
        runner = runner_of(host)
        elsewhere = await runner.answer(request(host, contract_id=6))
        verb = await runner.answer(request(host, verb=Verb.UNKNOWN))

    assert elsewhere.problem is not None
    assert elsewhere.problem.code == "contract_unknown"
    assert verb.problem is not None
    assert verb.problem.code == "verb_unknown"


async def test_failure_of_the_engine_is_the_answer(tmp_path: Path) -> None:
    async def broken(contract_id: int, tail: int) -> str:
        raise WorkloadError("engine_unavailable", "cannot reach the engine", remedy="start it")

    async with open_host(tmp_path) as (_, host):
        result = await runner_of(host, broken).answer(request(host))

    assert result == TaskResult("", Problem("engine_unavailable", "cannot reach the engine", "start it"))


async def test_answer_comes_in_time_when_the_engine_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.1)

    async def hangs(contract_id: int, tail: int) -> str:
        await asyncio.sleep(60)
        return ""

    async with open_host(tmp_path) as (_, host):
        results = await asyncio.wait_for(
            asyncio.gather(*(runner_of(host, hangs).answer(request(host)) for _ in range(10))), 5
        )

    assert {result.problem.code for result in results if result.problem} == {"task_timeout"}


async def test_daemon_logs_tell_the_story_of_the_contract(tmp_path: Path) -> None:
    async with open_host(tmp_path) as (_, host):
        now = host.clock.now()

        def live(tx: Transaction) -> None:
            intents.open_intent(tx, "launch", CONTRACT_ID, 1, now)
            intents.close_all(tx, CONTRACT_ID, "done", now + timedelta(seconds=1.5))
            intents.open_intent(tx, "stop", CONTRACT_ID, 1, now + timedelta(seconds=2))
            intents.close_all(tx, CONTRACT_ID, "stop_stuck", now + timedelta(seconds=2.5))
            intents.open_intent(tx, "recycle", CONTRACT_ID, 2, now + timedelta(seconds=3))
            intents.close_all(tx, CONTRACT_ID, "done", now + timedelta(seconds=4))
            intents.open_intent(tx, "start", CONTRACT_ID, 2, now + timedelta(seconds=5))
            intents.open_intent(tx, "create", 99, 1, now)

        await host.database.transaction(live)
        problem = Problem("image_missing", "cannot pull busybox", "check the name", "404\nnot found")
        await host.tell(status(CONTRACT_ID, WorkloadState.FAILED, now, exit_code=1, problem=problem))
        result = await runner_of(host).answer(request(host, daemon_logs=True))
        last = await runner_of(host).answer(request(host, daemon_logs=True, tail=1))
        none = await runner_of(host).answer(request(host, daemon_logs=True, tail=0))

    assert result.text.splitlines() == [
        "2026-01-01 12:00:00Z kaalia: contract 5 begins: busybox with 1 GPU",
        "2026-01-01 12:00:01Z kaalia: made the container and started it after 1.5 s",
        "2026-01-01 12:00:02Z kaalia: could not stop it, after 0.5 s [stop_stuck]",
        "2026-01-01 12:00:04Z kaalia: made room to make it anew (generation 2) after 1.0 s",
        "2026-01-01 12:00:05Z kaalia: began to start it again (generation 2), and is at it",
        "2026-01-01 12:00:00Z kaalia: it could not be run",
        "2026-01-01 12:00:00Z kaalia: the process ended with exit code 1",
        "2026-01-01 12:00:00Z kaalia: cannot pull busybox [image_missing]",
        "2026-01-01 12:00:00Z kaalia: 404 not found",
        "2026-01-01 12:00:00Z kaalia: check the name",
    ]
    assert last.text.splitlines() == result.text.splitlines()[-1:]
    assert none.text == ""


async def test_daemon_logs_tell_when_the_container_could_not_use_its_gpus(tmp_path: Path) -> None:
    async with open_host(tmp_path) as (_, host):
        now = host.clock.now()

        def tell(at_s: float, *scopes: str) -> Callable[[Transaction], None]:
            problem = Problem(fitness.LOST_INSIDE, "cannot use its GPUs any more")
            found = [Condition(problem, Severity.CRITICAL, "it may again", scope) for scope in scopes]
            return lambda tx: conditions.replace(tx, "gpu-inside", found, now + timedelta(seconds=at_s))

        def live(tx: Transaction) -> None:
            intents.open_intent(tx, "launch", CONTRACT_ID, 1, now)
            intents.close_all(tx, CONTRACT_ID, "done", now + timedelta(seconds=1))
            intents.open_intent(tx, "restart", CONTRACT_ID, 1, now + timedelta(seconds=5))
            intents.close_all(tx, CONTRACT_ID, "done", now + timedelta(seconds=6))

        await host.database.transaction(live)
        for told in (tell(3, f"C.{CONTRACT_ID}", "C.99"), tell(7), tell(9, f"C.{CONTRACT_ID}")):
            await host.database.transaction(told)
        result = await runner_of(host).answer(request(host, daemon_logs=True))

    assert [line.partition(" kaalia: ")[2][:40] for line in result.text.splitlines()[1:]] == [
        "made the container and started it after ",
        "programs inside could not use its GPUs a",
        "rebooted it after 1.0 s",
        "programs inside may use its GPUs again, ",
        "programs inside cannot use its GPUs sinc",
    ]


async def test_task_is_done_once_and_late_ones_are_dropped(tmp_path: Path) -> None:
    asked = []

    async def note(contract_id: int, tail: int) -> str:
        asked.append(tail)
        return ""

    async with open_host(tmp_path) as (_, host):
        late = request(host, task_id="late", tail=1, deadline_at=host.clock.now())
        good = request(host, task_id="good", tail=2)

        def put(tx: Transaction) -> None:
            tasks.add_new(tx, late, host.clock.now())
            tasks.add_new(tx, good, host.clock.now())

        runner = runner_of(host, note)
        await host.database.transaction(put, Topic.TASKS)
        await runner.turn()
        await host.database.transaction(put, Topic.TASKS)
        await runner.turn()
        await asyncio.sleep(0.2)
        await runner.close()

    assert asked == [2]


async def test_rented_contract_reads_like_any_other(tmp_path: Path) -> None:
    async with open_host(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        result = await runner_of(host).answer(request(host, contract_id=contract_id))

    assert result.problem is not None  # the machine has not pulled it yet


async def test_a_command_is_parsed_here_too_and_handed_on(tmp_path: Path) -> None:
    asked = []

    async def execute(contract_id: int, command: str, seconds: float) -> str:
        asked.append((contract_id, command, seconds))
        return "total 0\n"

    async def answer(host: Machine, **changes: object) -> TaskResult:
        runner = runner_of(host, execute=execute)
        return await runner.answer(request(host, verb=Verb.EXECUTE, **changes))

    async with open_host(tmp_path) as (_, host):
        done = await answer(host, command="ls -l /root")
        shell = await answer(host, command="ls; reboot")
        other = await answer(host, command="reboot")
        nothing = await answer(host)
        elsewhere = await answer(host, command="ls", contract_id=6)

    assert done == TaskResult("total 0\n")
    assert asked == [(CONTRACT_ID, "ls -l /root", module.EXECUTE_S)]
    refusals = [result.problem.code for result in (shell, other, nothing, elsewhere) if result.problem]
    assert refusals == ["command_invalid", "command_refused", "command_invalid", "contract_unknown"]


async def test_slow_commands_keep_nobody_from_his_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 1.0)

    async def slow(contract_id: int, command: str, seconds: float) -> str:
        await asyncio.sleep(60)
        return ""

    async with open_host(tmp_path) as (_, host):
        runner = runner_of(host, execute=slow)
        walks = [runner.answer(request(host, verb=Verb.EXECUTE, command="du")) for _ in range(6)]
        *late, logs = await asyncio.gather(*walks, runner.answer(request(host)))

    assert logs.problem is None
    assert {result.problem.code for result in late if result.problem} == {"task_timeout"}


async def test_one_contract_s_commands_keep_nobody_from_his(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(contract_id: int, _: str, __: float) -> str:
        if contract_id == CONTRACT_ID:
            await gate.wait()
        return "done"

    async with open_host(tmp_path) as (_, host):
        await host.database.transaction(lambda tx: contracts.upsert(tx, contract(6), host.clock.now()))
        runner, asked = runner_of(host, execute=slow), {"verb": Verb.EXECUTE, "command": "du"}
        crowd = [asyncio.create_task(runner.answer(request(host, **asked))) for _ in range(module.AT_ONCE_MAX + 1)]
        await asyncio.sleep(0)
        other = await runner.answer(request(host, **asked, contract_id=6))
        gate.set()
        answers = await asyncio.gather(*crowd)

    assert other == TaskResult("done")
    assert answers == [TaskResult("done")] * len(crowd)


async def test_a_filter_beyond_the_simple_is_for_a_process_of_its_own(tmp_path: Path) -> None:
    asked = []

    async def search(text: str, pattern: str) -> str:
        asked.append((text, pattern))
        return "found\n"

    async with open_host(tmp_path) as (_, host):
        runner = runner_of(host, search=search)
        simple = await runner.answer(request(host, filter="err.r"))
        full = await runner.answer(request(host, filter="(error|warning)"))

    assert (simple.text, full.text) == ("an error\n", "found\n")
    assert asked == [("contract 5 tail 10\nan error\n", "(error|warning)")]


async def test_a_snapshot_that_ended_with_the_daemon_is_told_by_the_next_one(tmp_path: Path) -> None:
    """Once; and one that was told of is not told of again."""
    begun, told = asyncio.Event(), []

    async def endless(request: TaskRequest, login: RegistryLogin | None, progress: Progress) -> str:
        if request.task_id == "t2":
            return "sha256:d2"
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def put_result(task_id: str, result: TaskResult) -> None:
        told.append((task_id, result))

    async def no_login(task_id: str) -> RegistryLoginReply:
        raise MarketplaceError("login_unknown", "cannot give a login")

    async with open_host(tmp_path) as (_, host):
        monkey = pytest.MonkeyPatch()
        monkey.setattr(host.client, "put_result", put_result)
        monkey.setattr(host.client, "task_login", no_login)
        for name in ("t1", "t2"):
            asked = request(host, task_id=name, verb=Verb.SNAPSHOT, image="me/saved:v1")
            await host.database.transaction(lambda tx, asked=asked: tasks.add_new(tx, asked, host.clock.now()))  # type: ignore[misc]
        for _ in range(3):
            runner = runner_of(host, snapshot=endless)
            work = asyncio.create_task(runner.turn())
            await asyncio.wait_for(begun.wait(), 30)
            await asyncio.sleep(0.2)
            work.cancel()
            await runner.close()
        monkey.undo()

    assert [(name, result.problem.code if result.problem else result.text) for name, result in told] == [
        ("t2", "snapshot pushed to me/saved:v1, sha256:d2"),
        ("t1", "snapshot_interrupted"),
    ]
    assert told[1][1].is_final
