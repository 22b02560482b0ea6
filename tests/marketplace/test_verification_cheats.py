"""Owners who would lose a bar, or prove with another machine's GPUs; posts that should break the books."""

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from kaalia.marketplace import accounts, verification_by_hand
from kaalia.marketplace.db.verification_tables import benchmarks, gpu_holders, selftests, verifications
from kaalia.model.machine import MachineReport, Missing
from kaalia.model.selftest import Figure, StepName
from kaalia.model.verification import State
from kaalia.wire import document, signature
from kaalia.wire.protocol import EnrolReply, MessageKind, StatusMessage, StatusPost
from tests.marketplace.liar import Liar, new_token, other_machine
from tests.marketplace.verifying import HOUR, beat, open_machine, open_verified, orders, prove, record, view, xid
from tests.support.clock import START
from tests.support.sound import notice, sound_report, whole_run

pytestmark = pytest.mark.usefixtures("database")
BAR = "mines coins on idle GPUs"


async def enrolled_anew(liar: Liar, owner: str = "host") -> Liar:
    """The same hardware under a new key, as after its identity was removed."""
    other = Liar(liar.market, liar.session, signature.generate_key())
    reply = await other.enrol(await new_token(liar.market, owner))
    other.machine_id = document.decode(EnrolReply, reply.body).machine_id
    return other


async def tell(liar: Liar, report: MachineReport | None = None, seq: int = 1) -> None:
    await beat(liar, StatusMessage(seq, MessageKind.REPORT, report=report or sound_report()))


async def bar(liar: Liar) -> None:
    await verification_by_hand.bar(liar.market.context.engine, liar.machine_id, BAR, liar.market.clock.now())


async def delete(liar: Liar) -> None:
    done = await liar.market.host.call("POST", f"/api/v0/machines/{liar.machine_id}/force_delete/", {})
    assert done.status == 200


async def test_a_bar_outlives_the_deletion_of_its_machine(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await bar(liar)
        await delete(liar)
        await liar.enrol(await new_token(liar.market))
        await prove(liar, 2)
        told = await view(liar)

    assert told.state is State.DEVERIFIED
    assert "<admin-set>" in [cause.code for cause in told.causes]


async def test_a_lost_verification_is_not_won_back_by_deleting_the_machine(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await beat(liar, conditions=(xid(),))
        await delete(liar)
        await liar.enrol(await new_token(liar.market))
        known = await record(liar)

    assert known.verification == "deverified"
    assert known.verified is not None
    assert [cause.code for cause in known.verified.causes] == ["gpu_xid_79"]


@pytest.mark.parametrize("owner", ["host", "stooge"])
async def test_a_bar_goes_with_the_gpus_whoever_enrols_them_anew(tmp_path: Path, owner: str) -> None:
    async with open_verified(tmp_path) as liar:
        engine, now = liar.market.context.engine, liar.market.clock.now
        if owner != "host":
            await accounts.add_user(engine, owner, True, now())
        await bar(liar)
        await delete(liar)
        other = await enrolled_anew(liar, owner)
        await tell(other)
        known = await view(other)
        await verification_by_hand.lift(engine, other.machine_id, now())
        await beat(other)
        await tell(other, sound_report(), 2)
        lifted = await view(other)

    assert known.state is State.DEVERIFIED
    assert f"machine {liar.machine_id}: {BAR}" in known.causes[0].words
    assert "<admin-set>" not in [cause.code for cause in lifted.causes]


async def test_gpus_that_another_machine_has_prove_nothing_and_take_nothing(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        other = await other_machine(liar)
        await tell(other)
        await prove(other)
        await beat(liar)
        first, second = await view(liar), await view(other)

    assert first.state is State.VERIFIED
    assert (second.state, [lack.code for lack in second.lacks]) == (State.UNVERIFIED, ["gpus_elsewhere"])


@pytest.mark.parametrize("how", ["moved", "deleted", "silent"])
async def test_gpus_that_were_moved_count_for_the_machine_that_has_them(tmp_path: Path, how: str) -> None:
    """One of the two goes over, and is tested there."""
    moved = replace(sound_report(1), gpus=sound_report(2).gpus[1:])
    async with open_verified(tmp_path) as liar:
        other = await other_machine(liar)
        await tell(other, moved)
        before = [lack.code for lack in (await view(other)).lacks]
        if how == "moved":
            await tell(liar, sound_report(1), 2)
        elif how == "deleted":
            await delete(liar)
        else:
            for _ in range(900):
                await beat(other, after_s=100)
        await prove(other)
        after = await view(other)

    assert "gpus_elsewhere" in before
    assert after.state is State.VERIFIED


async def test_a_gpu_that_the_driver_hides_stays_the_machines_own(tmp_path: Path) -> None:
    """Less is shown than is there: who names the missing one has not got it by that."""
    report = sound_report(2)
    hidden = replace(report, gpus=report.gpus[:1], missing=(Missing("gpus.1", "cannot read it"),))
    async with open_verified(tmp_path) as liar:
        await tell(liar, hidden, 2)
        other = await other_machine(liar)
        await tell(other, replace(sound_report(1), gpus=report.gpus[1:]))
        told = await view(other)

    assert "gpus_elsewhere" in [lack.code for lack in told.lacks]


async def test_two_machines_that_become_one_are_tested_as_one(tmp_path: Path) -> None:
    four = sound_report(4)
    async with open_verified(tmp_path) as liar:
        other = await other_machine(liar)
        await tell(other, replace(four, gpus=four.gpus[2:]))
        await delete(other)
        await tell(liar, four, 2)
        merged = await view(liar)
        run = whole_run(liar.market.clock.now(), 2)
        await beat(liar, selftests=(notice(run, four),), after_s=700)
        await beat(liar, selftests=(notice(whole_run(liar.market.clock.now(), 3), four),), after_s=700)
        again = await view(liar)

    assert merged.state is State.UNVERIFIED
    assert [lack.code for lack in merged.lacks] == ["selftest_gpus"]
    assert again.state is State.VERIFIED


async def test_the_result_of_another_machine_proves_nothing(tmp_path: Path) -> None:
    """Other GPUs, an order that went to nobody: what is not of these GPUs is no proof of them."""
    four = sound_report(4)
    elsewhere = replace(four, gpus=four.gpus[2:])
    async with open_machine(tmp_path) as liar:
        run = whole_run(liar.market.clock.now(), task_id="never-ordered")
        await beat(liar, selftests=(notice(run, elsewhere),))
        told = await view(liar)
        await beat(liar)
        asked = await orders(liar)

    assert told.state is State.UNVERIFIED
    assert [lack.code for lack in told.lacks] == ["selftest_gpus"]
    assert len(asked) == 1


async def test_report_and_result_of_a_machine_that_shrank_do_not_come_as_if_nothing_was(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        small = sound_report(gpus=1)
        run = whole_run(liar.market.clock.now(), 2)
        report = StatusMessage(2, MessageKind.REPORT, report=small)
        await beat(liar, report, selftests=(notice(run, small),))
        told = await view(liar)

    assert told.state is State.DEVERIFIED
    assert [cause.code for cause in told.causes] == ["capacity_reduced"]


async def test_of_many_tests_in_one_post_the_newest_count(tmp_path: Path) -> None:
    """A machine that was cut off tells all of them at once, the oldest first."""
    async with open_verified(tmp_path) as liar:
        now = liar.market.clock.now()
        runs = [whole_run(now, number, began_at=now + number * (now - START) / 99) for number in range(2, 30)]
        runs = [replace(one, ended_at=one.began_at) for one in runs]
        failed = replace(runs[-1], steps=whole_run(now, failed=StepName.BURN).steps)
        await beat(liar, selftests=tuple(notice(one) for one in (*runs[:-1], failed)), after_s=HOUR)
        known = await record(liar)

    assert known.verification == "deverified"


async def test_an_older_daemon_that_tells_no_faults_at_all_mends_none_by_that(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await beat(liar, conditions=(xid(),))
        for _ in range(20):
            await beat(liar, conditions=None, faults=None)
        told = await view(liar)
        await liar.look()

    assert told.state is State.DEVERIFIED
    assert [cause.code for cause in told.causes] == ["gpu_xid_79"]


async def test_numbers_of_64_bits_are_taken(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        reply = await liar.post(
            StatusMessage(2**40, MessageKind.REPORT, report=sound_report()), revision=2**40, conditions=()
        )
        missing = await liar.market.host.call("GET", f"/api/v0/machines/{2**40}/reports/")
        unknown = await liar.market.renter.call(
            "POST", f"/api/v0/machines/{2**40}/reports/", {"problem": "p", "message": "m"}
        )

    assert reply.acked_seq == 2**40
    assert (missing.status, unknown.status) == (404, 404)


@pytest.mark.parametrize("name", ["dl\x00perf", "a\x1b[2Jb", "", "two\nlines"])
async def test_names_that_no_database_takes_are_no_names(tmp_path: Path, name: str) -> None:
    async with open_machine(tmp_path) as liar:
        run = whole_run(liar.market.clock.now())
        steps = (replace(run.steps[0], figures=(Figure(name, 1.0, ""),)), *run.steps[1:])
        await beat(liar, selftests=(notice(replace(run, steps=steps)),))
        report = sound_report()
        named = replace(report, gpus=tuple(replace(gpu, uuid=f"{gpu.uuid}{name}\x00") for gpu in report.gpus))
        await tell(liar, named, 2)
        known = await record(liar)
        stream = await liar.send("POST", liar.path("status"), StatusPost(f"s\x00{name}", 1, 1, START, ()))

    assert known.verified is not None
    assert known.verified.last is None
    assert known.report == report
    assert (stream.status, stream.code) == (400, "document_invalid")


async def test_a_score_is_reckoned_and_never_told_and_goes_with_its_machine(tmp_path: Path) -> None:
    """A machine without a known model has none, whatever it says."""
    report = sound_report(gpu_name="NVIDIA Wonder 9000")
    async with open_machine(tmp_path, report) as liar:
        run = whole_run(liar.market.clock.now())
        steps = (replace(run.steps[0], figures=(Figure("dlperf", 1e11, ""),)), *run.steps[1:])
        await beat(liar, selftests=(notice(replace(run, steps=steps), report),))
        found = (await liar.market.renter.call("GET", "/api/v0/benchmarks")).body["benchmarks"]
        await delete(liar)
        gone = (await liar.market.renter.call("GET", "/api/v0/benchmarks")).body["benchmarks"]
        async with liar.market.context.engine.begin() as tx:
            left = [await tx.scalar(sa.select(sa.func.count()).select_from(one)) for one in (benchmarks, selftests)]

    assert found
    assert "dlperf" not in {row["type"] for row in found}
    assert (gone, left) == ([], [0, 0])


async def test_a_machine_that_names_ever_new_gpus_fills_no_table(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        report = sound_report()
        for number in range(2, 12):
            gpus = tuple(replace(gpu, uuid=f"{gpu.uuid}-{number}") for gpu in report.gpus)
            await tell(liar, replace(report, gpus=gpus), number)
        async with liar.market.context.engine.begin() as tx:
            rows = await tx.scalar(sa.select(sa.func.count()).select_from(gpu_holders))

    assert rows == 2


async def test_a_record_of_an_older_marketplace_is_read(tmp_path: Path) -> None:
    """Without the fields that came later; and what a newer one wrote is no reason to fail."""
    async with open_verified(tmp_path) as liar:
        text = (
            '{"state": "verified", "since": "2026-01-01T12:00:00Z", "last": null, "proof": null, "from_the_future": 1,'
            ' "ordered": {"task_id": "t", "at": "2026-01-01T12:00:00Z", "why": "at random"}}'
        )
        async with liar.market.context.engine.begin() as tx:
            await tx.execute(sa.update(verifications).values(record=text))
        await prove(liar, 2)
        known = await record(liar)

    assert known.verified is not None
    assert (known.verification, known.verified.unanswered, known.verified.asides) == ("verified", 0, ())
