"""Self-tests as machines tell them: once each, within bounds, and none that cannot be."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.contracts.fitness import Fault
from kaalia.marketplace import verification
from kaalia.marketplace.db.verification_tables import selftests
from kaalia.model.health import Severity
from kaalia.model.selftest import Figure, RunResult, SelfTestOrder, StepName
from kaalia.model.verification import State
from tests.marketplace.verifying import beat, open_machine, prove, record
from tests.support.clock import START
from tests.support.sound import notice, whole_run

pytestmark = pytest.mark.usefixtures("database")


async def test_a_test_counts_once_however_often_it_is_told(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        run = whole_run(liar.market.clock.now(), failed=StepName.MEMORY)
        for _ in range(3):
            await beat(liar, selftests=(notice(run),))
        known = (await record(liar)).verified
        async with liar.market.context.engine.begin() as tx:
            kept = await tx.scalar(sa.select(sa.func.count()).select_from(selftests))
        for number in range(2, 40):
            await beat(liar, selftests=(notice(whole_run(liar.market.clock.now(), number)),))
        async with liar.market.context.engine.begin() as tx:
            many = await tx.scalar(sa.select(sa.func.count()).select_from(selftests))

    assert known is not None
    assert (known.failures, kept, many) == (1, 1, verification.KEPT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"run": {"run_id": 1}}',
        notice(whole_run(START, ended_at=None)),
        notice(whole_run(START, ended_at=START - timedelta(days=1))),
        notice(whole_run(START, result=None)),
    ],
)
async def test_what_is_no_test_is_left_out_and_the_rest_of_the_post_counts(tmp_path: Path, text: str) -> None:
    async with open_machine(tmp_path) as liar:
        run = whole_run(liar.market.clock.now())
        await beat(liar, selftests=(text, notice(run)))

        assert (await record(liar)).verification == "verified"


async def test_endless_tests_are_cut_or_refused(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        run = whole_run(liar.market.clock.now())
        figures = tuple(Figure(f"f{number}", 1.0, "") for number in range(5000))
        huge = replace(run, steps=(replace(run.steps[0], figures=figures, words="w" * 10**5), *run.steps[1:]))
        cut = notice(huge)
        named = json.loads(notice(run))
        named["run"]["steps"][0]["figures"] = [{"name": "n" * 65, "value": 1.0, "unit": ""}]
        await beat(liar, selftests=(cut, json.dumps(named)))
        known = (await record(liar)).verified

    assert len(cut) < 100_000
    assert known is not None
    assert known.proof is not None
    assert len(known.proof.figures) <= 64


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": 2**31},
        {"run_id": -1},
        {"order": SelfTestOrder(START, task_id="t" * 65)},
        {"steps": whole_run(START).steps * 2},
    ],
    ids=str,
)
async def test_numbers_and_names_that_no_machine_has_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with open_machine(tmp_path) as liar:
        run = replace(whole_run(liar.market.clock.now()), **changes)
        gpus = json.loads(notice(whole_run(liar.market.clock.now(), 5)))
        gpus["gpu_uuids"] = ["G" * 65]
        endless = json.loads(notice(whole_run(liar.market.clock.now(), 6)))
        endless["agent_version"] = "v" * 10**6
        await beat(liar, selftests=(notice(run), json.dumps(gpus), json.dumps(endless)))
        known = (await record(liar)).verified

    assert known is not None
    assert known.last is None


async def test_conditions_with_endless_names_are_cut(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        many = tuple(
            Fault(f"GPU-{number}", "gpu_xid_" + "9" * 5000, Severity.CRITICAL, START, "m" * 5000)
            for number in range(600)
        )
        await beat(liar, conditions=many)
        known = (await record(liar)).verified

    assert known is not None
    assert 0 < len(known.causes) < 300
    assert max(len(one.code) + len(one.words) for one in known.causes) < 400


async def test_a_test_without_verdict_leaves_everything_as_it_is(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        await prove(liar, result=RunResult.NOT_RUN, steps=())
        known = (await record(liar)).verified

    assert known is not None
    assert (known.state, known.last, known.failures) == (State.UNVERIFIED, None, 0)
