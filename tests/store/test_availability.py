"""The ledger comes back as it went in, tells what is news once, and does not grow for ever."""

from dataclasses import replace
from datetime import timedelta

from kaalia.contracts.outages import Absence, Pending
from kaalia.model.availability import Cause, Outage, Record, Silence
from kaalia.store import availability
from kaalia.store.availability import Contact, Stop, Sum
from kaalia.store.database import Database
from tests.support.clock import START

MINUTE = timedelta(minutes=1)
NET = Outage(START, None, Cause.NET, True, "no route")


async def begun(store: Database, outage: Outage, begin_s: float = 100.0) -> None:
    await store.transaction(lambda tx: availability.begin(tx, outage, "boot-1", begin_s))


async def test_an_outage_opens_and_ends(store: Database) -> None:
    await begun(store, NET)
    (row,) = await store.read(availability.open_outages)
    assert (row.outage, row.boot_id, row.begin_s) == (NET, "boot-1", 100.0)

    await store.transaction(lambda tx: availability.end(tx, row.number, START + MINUTE, START + 9 * MINUTE))

    assert await store.read(availability.open_outages) == ()
    assert await store.read(availability.ledger) == (replace(NET, begin_at=START + MINUTE, end_at=START + 9 * MINUTE),)


async def test_what_comes_back_at_once_had_not_ended(store: Database) -> None:
    over = replace(NET, end_at=START + 5 * MINUTE, is_rented=False)
    await begun(store, over)
    await begun(store, replace(NET, begin_at=START + 5.5 * MINUTE, end_at=None))
    await begun(store, replace(NET, begin_at=START + 5.5 * MINUTE, cause=Cause.DOCKER))

    net, docker = await store.read(availability.ledger)
    assert (net.begin_at, net.end_at, net.is_rented) == (START, None, True)
    assert docker.cause is Cause.DOCKER


async def test_what_comes_back_later_is_another_one(store: Database) -> None:
    await begun(store, replace(NET, end_at=START + MINUTE))
    await begun(store, replace(NET, begin_at=START + 3 * MINUTE))

    assert len(await store.read(availability.ledger)) == 2


async def test_each_change_is_told_once(store: Database) -> None:
    await begun(store, NET)
    sent = await store.read(lambda tx: availability.untold(tx, 32))
    number = sent[0].number
    await store.transaction(lambda tx: availability.end(tx, number, START, START + MINUTE))
    await store.transaction(lambda tx: availability.heard(tx, START, 0.9, None, sent))

    (again,) = await store.read(lambda tx: availability.untold(tx, 32))
    assert again.outage.end_at == START + MINUTE, "it changed while it was being told"
    await store.transaction(lambda tx: availability.heard(tx, START, 0.9, None, (again,)))
    assert await store.read(lambda tx: availability.untold(tx, 32)) == ()


async def test_the_ledger_is_bounded(store: Database) -> None:
    def fill(tx: object) -> None:
        for number in range(availability.ROWS_MAX + 50):
            at = START + 10 * number * MINUTE
            availability.begin(tx, replace(NET, begin_at=at, end_at=at + MINUTE), "boot-1", 0.0)  # type: ignore[arg-type]

    await store.transaction(fill)
    kept = await store.read(availability.ledger)

    assert len(kept) == availability.ROWS_MAX
    assert kept[0].begin_at == START + 500 * MINUTE


async def test_the_marketplaces_words_are_kept(store: Database) -> None:
    record = Record(START, 180.0, True, (Silence(START, START + MINUTE, True, 1.5, 2.5, Cause.POWER),))
    assert await store.read(availability.get_contact) == Contact()

    await store.transaction(lambda tx: availability.heard(tx, START, 0.97, record, ()))
    await store.transaction(lambda tx: availability.heard(tx, START + MINUTE, 0.98, None, ()))
    assert await store.read(availability.get_record) == record
    assert await store.read(availability.get_contact) == Contact(2, START + MINUTE, 0.98)

    await store.transaction(lambda tx: availability.failed(tx, "marketplace_unreachable", was_reached=True))
    assert await store.read(availability.get_contact) == Contact(
        2, START + MINUTE, 0.98, "marketplace_unreachable", True
    )


async def test_marks_of_stops_and_doubts_come_back(store: Database) -> None:
    pending = Pending(Absence(Cause.POWER, START, "boot-1", 5.5, "it went"), "boot-2", 7.25)
    await store.transaction(lambda tx: availability.put_stop(tx, Stop("boot-1", 55.5)))
    await store.transaction(lambda tx: availability.put_pending(tx, pending))
    assert await store.read(availability.get_stop) == Stop("boot-1", 55.5)
    assert await store.read(availability.get_pending) == pending

    await store.transaction(lambda tx: availability.put_stop(tx, None))
    await store.transaction(lambda tx: availability.put_pending(tx, None))
    assert await store.read(availability.get_stop) is None
    assert await store.read(availability.get_pending) is None


async def test_sums_count_the_part_that_lies_in_the_time(store: Database) -> None:
    now = START + 100 * MINUTE
    await begun(store, replace(NET, begin_at=START - 30 * MINUTE, end_at=START - MINUTE))
    await begun(store, replace(NET, begin_at=START + 8 * MINUTE, end_at=START + 12 * MINUTE))
    await begun(store, replace(NET, begin_at=START + 95 * MINUTE))
    await begun(store, replace(NET, begin_at=START - 5 * MINUTE, end_at=START + 20 * MINUTE, cause=Cause.POWER))

    found = await store.read(lambda tx: availability.sums(tx, START + 10 * MINUTE, now))

    assert found == {Cause.NET: Sum(2, 7 * 60, True), Cause.POWER: Sum(1, 10 * 60, False)}
