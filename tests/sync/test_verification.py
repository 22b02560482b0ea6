"""What a machine is judged by goes through the outbox and the heartbeat to its marketplace."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from kaalia.contracts.offer import Listing
from kaalia.errors import Problem
from kaalia.marketplace import machines
from kaalia.model.health import Condition, Severity
from kaalia.model.verification import State
from kaalia.store import conditions, outbox, selftest, standing, tasks
from kaalia.sync.push import collect
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind, Verb
from tests.support.sound import notice, sound_report, whole_run
from tests.sync.support import Machine, open_pair
from tests.sync.test_pull import pull_of
from tests.sync.test_push import push_of, record
from tests.sync.test_tasks import runner_of


async def put(host: Machine, kind: str, body: str) -> None:
    await host.database.transaction(lambda tx: outbox.add(tx, kind, body, host.clock.now()))


async def test_a_finished_self_test_arrives_with_the_post_and_is_safe_then(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await put(host, MessageKind.REPORT, document.encode(sound_report()))
        await put(host, MessageKind.SELFTEST, notice(whole_run(market.clock.now())))
        left_before = await host.pending()
        await push_of(host).once()
        known = await record(market, host)
        left = await host.pending()

    assert (left_before, left) == (2, 0)
    assert known.verified is not None
    assert known.verified.proof is not None
    assert known.verification == State.VERIFIED


async def test_a_test_alone_is_safe_too_and_one_that_nobody_can_read_holds_up_nothing(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await put(host, MessageKind.SELFTEST, "no JSON at all")
        await put(host, MessageKind.SELFTEST, notice(whole_run(market.clock.now())))
        await push_of(host).once()
        known = await record(market, host)
        left = await host.pending()

    assert left == 0
    assert known.verified is not None
    assert known.verified.last is not None


async def test_an_older_marketplace_takes_the_rest_of_the_post(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        await put(host, MessageKind.SELFTEST, notice(whole_run(host.clock.now())))
        batch = await host.database.read(lambda tx: collect(tx, "s", host.clock.now(), is_full_due=False))

    assert batch.post.messages == ()
    assert len(batch.post.selftests) == 1
    assert batch.last_seq == 1


async def test_conditions_that_may_cost_the_verification_go_with_every_post(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        found = [
            Condition(Problem("gpu_xid_79", "cannot count on it"), Severity.CRITICAL, "a reset", "GPU-1"),
            Condition(Problem("gpu_hot", "it is hot"), Severity.WARN, "it cools", "GPU-1"),
        ]
        await host.database.transaction(lambda tx: conditions.replace(tx, "gpu", found, host.clock.now()))
        batch = await host.database.read(lambda tx: collect(tx, "s", host.clock.now(), is_full_due=False))
        await push_of(host).once()
        async with market.context.engine.begin() as tx:
            known = await machines.get(tx, host.member.machine_id)

    assert batch.post.conditions is not None
    assert [one.code for one in batch.post.conditions] == ["gpu_xid_79"]
    assert known is not None
    assert known.verified is not None
    assert [one.code for one in known.verified.causes] == ["gpu_xid_79"]


async def test_a_test_that_the_marketplace_wants_is_ordered_on_the_machine_and_answers_it(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        async with market.context.engine.begin() as tx:
            await machines.put_listing(tx, host.member.machine_id, Listing(Decimal("0.4")))
        await put(host, MessageKind.REPORT, document.encode(sound_report()))
        await push_of(host).once()
        asked = (await record(market, host)).verified
        await pull_of(host).once()
        (task,) = await host.database.transaction(tasks.take_new)
        result = await runner_of(host).answer(task)
        again = await runner_of(host).answer(task)
        run = await host.database.read(selftest.open_run)
        assert run is not None
        ended = replace(whole_run(market.clock.now(), run.run_id), order=run.order)
        await put(host, MessageKind.SELFTEST, notice(ended))
        await push_of(host).once()
        known = await record(market, host)

    assert asked is not None
    assert asked.ordered is not None
    assert (task.verb, task.task_id) == (Verb.SELF_TEST, asked.ordered.task_id)
    assert (result.text, result.problem) == ("ordered as number 1", None)
    assert again.problem is not None
    assert again.problem.code == "selftest_under_way"
    assert run.order.task_id == task.task_id
    assert not run.order.is_quick
    assert known.verified is not None
    assert (known.verification, known.verified.ordered) == (State.VERIFIED, None)


async def test_the_machine_knows_why_it_is_not_verified(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        await put(host, MessageKind.REPORT, document.encode(sound_report(mbps=10.0)))
        await push_of(host).once()
        await pull_of(host).once()
        told = await host.database.read(standing.get)

    assert told is not None
    assert told.standing.view is not None
    assert [lack.code for lack in told.standing.view.lacks] == ["network.download", "network.upload", "selftest"]
