"""Applies `contracts.verification` to whatever is heard of a machine, in the same transaction; there is no timer.

Requirements are held against what this marketplace saw itself where it did, and the machine's signed claims else.
"""

import logging
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import requirement_facts, retest, verification_news
from kaalia.contracts import sightings as sighting_rules
from kaalia.contracts import verification as rules
from kaalia.contracts.fitness import Fault
from kaalia.contracts.maintenance import open_windows
from kaalia.contracts.requirement_facts import Facts
from kaalia.contracts.verification_news import News
from kaalia.errors import KaaliaError
from kaalia.marketplace import benchmarks, errands, gpu_holders, liveness, machines, reports, sightings
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.verification_tables import selftests
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.machine import Network
from kaalia.model.sightings import Sightings
from kaalia.model.verification import Ordered, State, Verification
from kaalia.wire import document, facts
from kaalia.wire.protocol import TaskRequest, Verb
from kaalia.wire.selftest import TEXT_MAX_CHARS, SelfTestNotice, fault

log = logging.getLogger(__name__)

NOTICES_TAKEN = 16
"""Of one post, the newest; a machine that tests all day has some."""
KEPT = 20
"""Self-tests of a machine, the newest."""
ORDER_LIFE = timedelta(hours=1)
"""For the machine to take it; when it runs is its own affair."""
_CHANCE = random.SystemRandom()


async def heed(
    context: Context,
    tx: AsyncConnection,
    machine: MachineRecord,
    conditions: tuple[Fault, ...] | None,
    told: Iterable[str] = (),
) -> bool:
    """A machine was heard of, and is so now. `conditions`: open ones, None: it tells none; `told`: its tests.

    True: it has news to learn, so ring its bell after the commit.
    """
    now = context.clock.now()
    if machine.deleted_at is not None:
        return False
    before = known(machine, now)
    after, elsewhere = await _with_gpus(tx, machine, before, now)
    look = partial(_news, context, tx, machine, conditions=conditions, elsewhere=elsewhere, now=now)
    if told := list(told)[-NOTICES_TAKEN:]:
        # First what is seen: a test that comes with it is of before.
        after = rules.advance(after, await look(after))
        after = await _with_tests(tx, machine, after, told, now)
    news = await look(after)
    after = retest.excused(rules.advance(after, news), news)
    if why := retest.wanted_test(after, news):
        after = await _order(tx, machine, after, why, now)
    if machine.verified is not None and _essence(after) == _essence(machine.verified):
        return False
    await put(tx, machine.id, after)
    if after.state is not before.state:
        why = ", ".join(after.history[-1].why)
        log.warning("machine %d is %s, it was %s: %s", machine.id, after.state, before.state, why or "nothing lacks")
    return True


async def put(tx: AsyncConnection, machine_id: int, record: Verification) -> None:
    """Ring the machine's bell after the commit."""
    await machines.put_verification(tx, machine_id, record)
    await machines.bump(tx, machine_id)


def known(machine: MachineRecord, now: datetime) -> Verification:
    """As it is written; of a machine without a record, what follows from its state."""
    return machine.verified or replace(rules.begun(now), state=State(machine.verification))


async def _with_gpus(
    tx: AsyncConnection, machine: MachineRecord, known: Verification, now: datetime
) -> tuple[Verification, int]:
    """Barred as the machine is whose GPUs it has now; and how many of its GPUs another one has."""
    found = await gpu_holders.claim(tx, machine, now)
    if found.barred and not known.barred:
        log.warning("machine %d is barred: %s", machine.id, found.barred)
        known = rules.barred(known, found.barred, now)
    return known, found.elsewhere


async def _with_tests(
    tx: AsyncConnection, machine: MachineRecord, known: Verification, told: list[str], now: datetime
) -> Verification:
    for text in told:
        notice = _read(machine.id, text)
        found = None if notice is None else retest.note(notice.run, notice.gpu_uuids, now)
        if notice is None or found is None or not await _keep(tx, machine.id, notice, text, now):
            continue
        capacity = None if machine.report is None else verification_news.capacity(machine.report)
        known = retest.tested(known, found, now, capacity, _CHANCE.random())
        if known.proof is found:
            await benchmarks.put(tx, machine, found, now)
        log.info("machine %d: self-test %d: %s", machine.id, found.run_id, ", ".join(found.failed) or found.result)
    return known


def _read(machine_id: int, text: str) -> SelfTestNotice | None:
    if len(text) > TEXT_MAX_CHARS:
        log.error("selftest_unreadable: a self-test of machine %d is not taken: it is endless", machine_id)
        return None
    try:
        notice = document.decode(SelfTestNotice, text)
    except KaaliaError as error:
        log.error("selftest_unreadable: a self-test of machine %d is not taken: %s", machine_id, error)
        return None
    if why := fault(notice):
        log.error("selftest_unbelievable: a self-test of machine %d is not taken: %s", machine_id, why)
        return None
    return notice


async def _keep(tx: AsyncConnection, machine_id: int, notice: SelfTestNotice, text: str, now: datetime) -> bool:
    """False: it is known."""
    began_at = 0.0 if notice.run.began_at is None else notice.run.began_at.timestamp()
    mine = selftests.c.machine_id == machine_id
    same = sa.and_(mine, selftests.c.run_id == notice.run.run_id, selftests.c.began_at == began_at)
    if await tx.scalar(sa.select(selftests.c.id).where(same)) is not None:
        return False
    row = {"machine_id": machine_id, "run_id": notice.run.run_id, "began_at": began_at, "taken_at": now.timestamp()}
    await tx.execute(sa.insert(selftests).values({**row, "document": text}))
    newest = sa.select(selftests.c.id).where(mine).order_by(selftests.c.id.desc()).limit(KEPT)
    await tx.execute(sa.delete(selftests).where(mine, selftests.c.id.not_in(newest.scalar_subquery())))
    return True


async def _news(
    context: Context,
    tx: AsyncConnection,
    machine: MachineRecord,
    known: Verification,
    *,
    conditions: tuple[Fault, ...] | None,
    elsewhere: int,
    now: datetime,
) -> News:
    report, proof = machine.report, known.proof
    is_rented = machine.availability is not None and machine.availability.is_rented
    found, refused = None, ""
    seen, reporters = await _seen(tx, machine.id, known.last.taken_at if known.last else now)
    if report is not None:
        reliability = liveness.reliability(machine, now, context.settings.offline_after_s, context.away)
        tflops = facts.encode(report)["total_flops"]
        found = requirement_facts.of(report, reliability, tflops, proof.figures if proof else {})
        found = _with_sightings(found, report.network, seen)
        if report.driver is not None and report.driver.simulated and not context.settings.verifies_simulated:
            refused = "its driver is a simulated one: no GPU is behind it"
    return News(
        now=now,
        facts=found,
        capacity=None if report is None else verification_news.capacity(report),
        conditions=conditions,
        faults=machine.faults,
        is_rented=is_rented,
        is_offered=machine.listing is not None and not machine.is_cordoned(now) and not _is_worked_on(machine, now),
        refused=refused,
        reporters=reporters,
        elsewhere=elsewhere,
    )


def _is_worked_on(machine: MachineRecord, now: datetime) -> bool:
    return any(window.start_at <= now for window in open_windows(machine.windows, now))


async def _seen(tx: AsyncConnection, machine_id: int, since: datetime) -> tuple[Sightings | None, int]:
    """What was reached of its ports, and how many renters reported it since then: one question, every heartbeat."""
    row = (await tx.execute(sa.select(sightings.of(machine_id), reports.reporters(machine_id, since)))).one()
    return sightings.read(row[0]), int(row[1])


def _with_sightings(found: Facts, network: Network, seen: Sightings | None) -> Facts:
    """What this marketplace reached itself, where it tried the address that the machine names."""
    if seen is None or (network.proven is not None and network.proven.address != seen.address):
        return found
    tcp, udp = sighting_rules.counted(seen, network.port_range)
    return replace(found, tcp_ports=tcp, udp_ports=udp)


async def _order(
    tx: AsyncConnection, machine: MachineRecord, known: Verification, why: str, now: datetime
) -> Verification:
    task = TaskRequest(errands.new_id(), Verb.SELF_TEST, 0, now + ORDER_LIFE)
    await errands.post(tx, machine.id, task, now)
    log.info("machine %d is asked for a self-test: %s", machine.id, why)
    return retest.ordered(known, Ordered(task.task_id, now, why))


def _essence(known: Verification) -> Verification:
    """Without what changes with each look, such as the figure of a requirement that is not met."""
    return replace(
        known,
        causes=tuple(replace(one, words="") for one in known.causes),
        asides=tuple(replace(one, words="") for one in known.asides),
        lacks=tuple(replace(one, words="", actual="", required="", remedy="") for one in known.lacks),
    )
