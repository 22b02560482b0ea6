import asyncio
from datetime import timedelta
from decimal import Decimal

from kaalia.api import status
from kaalia.contracts.offer import Listing
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import Missing
from kaalia.model.workload import WorkloadState
from kaalia.store import claims, conditions, contracts, enrolment, machine, outbox, workloads
from kaalia.store.database import Transaction
from kaalia.wire.local import DaemonStatus
from tests.api.conftest import Local
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import START


def enrol(tx: Transaction) -> None:
    enrolment.put(tx, enrolment.Enrolment("https://m.example", 12, {"k": "x"}, START))
    enrolment.put_snapshot(tx, enrolment.AcceptedSnapshot(1, 5, START + timedelta(minutes=30), "{}", START))


def rented(tx: Transaction) -> None:
    enrol(tx)
    machine.put_report(tx, build_report())
    machine.put_listing(tx, Listing(Decimal("0.40")))
    contracts.upsert(tx, build_contract(51), START)
    contracts.upsert(tx, build_contract(52), START)
    workloads.put(tx, build_status(51))
    claims.claim(tx, [claims.Claim(claims.ClaimKind.GPU, build_report().gpus[0].uuid, 51, 1)], START)
    outbox.add(tx, "workload", "{}", START)


def codes(document: DaemonStatus) -> set[str]:
    return {problem.code for problem in document.problems}


async def show(local: Local) -> DaemonStatus:
    return await asyncio.to_thread(local.client.status)


async def test_a_fresh_daemon_says_what_to_do_next(local: Local) -> None:
    document = await show(local)

    assert codes(document) == {"not_enrolled", "no_report_yet"}
    assert document.marketplace is None
    assert status.line(document).startswith("not enrolled")


async def test_a_rented_machine_has_no_problems(local: Local) -> None:
    await local.database.transaction(rented)

    document = await show(local)

    assert document.problems == ()
    assert document.contracts == {WorkloadState.RUNNING: 1, WorkloadState.WAITING: 1}
    assert [(group.count, group.in_use) for group in document.gpus] == [(2, 1)]
    assert document.simulated
    assert document.price_gpu_per_hour == Decimal("0.40")
    assert document.marketplace is not None
    assert (document.marketplace.revision, document.marketplace.unsent_messages) == (5, 1)
    assert status.line(document) == "machine 12 of https://m.example, 1 running, 1 waiting"


async def test_a_silent_marketplace_is_told(local: Local) -> None:
    await local.database.transaction(rented)
    local.clock.advance(31 * 60)

    assert codes(await show(local)) == {"marketplace_silent"}


async def test_what_a_service_found_wrong_is_told_until_it_is_well(local: Local) -> None:
    warning = Condition(Problem("audit_failed", "cannot agree"), Severity.WARN, "they agree again")
    wrong = Condition(Problem("gpu_lost", "cannot see it"), Severity.CRITICAL, "it is seen again")
    unseen = Condition(Problem("gpu_unseen", "cannot look"), Severity.UNKNOWN, "it can be looked at")
    await local.database.transaction(rented)
    found = [warning, wrong, unseen]
    await local.database.transaction(lambda tx: conditions.replace(tx, "audit", found, START))
    document = await show(local)
    assert document.problems == (wrong.problem, unseen.problem)
    assert document.warnings == (warning.problem,)

    await local.database.transaction(lambda tx: conditions.replace(tx, "audit", [], START))
    document = await show(local)
    assert (document.problems, document.warnings) == ((), ())


async def test_an_old_report_is_told(local: Local) -> None:
    await local.database.transaction(rented)
    local.clock.advance(3 * 3600)

    assert "report_old" in codes(await show(local))


async def test_docker_that_does_not_answer_is_told_with_its_reason(local: Local) -> None:
    report = build_report(engine=None, missing=(Missing("engine", "connection refused"),))
    await local.database.transaction(enrol)
    await local.database.transaction(lambda tx: machine.put_report(tx, report))

    document = await show(local)

    assert [problem.evidence for problem in document.problems] == ["connection refused"]
    assert codes(document) == {"engine_unavailable"}
    assert "Docker does not answer" in status.line(document)


async def test_a_machine_without_gpus_is_no_problem_but_unreadable_ones_are(local: Local) -> None:
    await local.database.transaction(enrol)
    await local.database.transaction(lambda tx: machine.put_report(tx, build_report(gpus=0)))
    assert (await show(local)).problems == ()

    unreadable = build_report(gpus=0, missing=(Missing("gpus", "the driver hangs"),))
    await local.database.transaction(lambda tx: machine.put_report(tx, unreadable))
    assert (await show(local)).problems == (
        Problem("gpus_unreadable", "cannot read the GPUs", "see: nvidia-smi", "the driver hangs"),
    )


async def test_who_is_told_the_cause_is_not_told_its_symptoms(local: Local) -> None:
    def of(code: str, scope: str, *hidden_by: str) -> Condition:
        return Condition(Problem(code, "cannot tell"), Severity.CRITICAL, "never", scope, hidden_by=hidden_by)

    hung, lost = of("gpu_driver_hung", "host"), of("gpu_lost", "GPU-a", "gpu_driver_*", "gpu_xid_79")
    unreadable = build_report(gpus=0, missing=(Missing("gpus", "the driver hangs"),))
    await local.database.transaction(enrol)
    await local.database.transaction(lambda tx: machine.put_report(tx, unreadable))
    await local.database.transaction(lambda tx: conditions.replace(tx, "gpu", [hung, lost], START))

    document, health = await show(local), await asyncio.to_thread(local.client.health)
    assert codes(document) == {"gpu_driver_hung"}
    assert [one.condition for one in health.open] == [hung]
    assert health.problems == ()

    xid = of("gpu_xid_79", "GPU-a")
    await local.database.transaction(lambda tx: conditions.replace(tx, "gpu", [lost], START))
    await local.database.transaction(lambda tx: conditions.replace(tx, "kernel", [xid], START))
    assert codes(await show(local)) == {"gpus_unreadable", "gpu_xid_79"}
    await local.database.transaction(lambda tx: conditions.replace(tx, "kernel", [], START))
    assert codes(await show(local)) == {"gpus_unreadable", "gpu_lost"}
