"""Each source owns its conditions, and what lasts keeps the moment it was first seen."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from kaalia.errors import Problem
from kaalia.model.health import Condition, OpenCondition, PastCondition, Severity
from kaalia.store import conditions
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.support.clock import START

LATER = START + timedelta(minutes=1)


def condition(code: str, evidence: str = "") -> Condition:
    return Condition(Problem(code, "cannot be well", "do something", evidence), Severity.WARN, "it is well again")


async def test_what_lasts_keeps_its_beginning_and_tells_its_newest_evidence(store: Database) -> None:
    await store.transaction(lambda tx: conditions.replace(tx, "audit", [condition("a"), condition("b")], START))
    newer = condition("b", "worse")

    await store.transaction(lambda tx: conditions.replace(tx, "audit", [newer, condition("c")], LATER))

    found = await store.read(conditions.all_open)
    assert found == (OpenCondition(newer, "audit", START), OpenCondition(condition("c"), "audit", LATER))


async def test_what_came_back_begins_anew_and_other_sources_are_left_alone(store: Database) -> None:
    await store.transaction(lambda tx: conditions.replace(tx, "disk", [condition("d")], START))
    for found, at in (([condition("a")], START), ([], START), ([condition("a")], LATER)):
        await store.transaction(partial(conditions.replace, source="audit", found=found, now=at))

    assert [(one.source, one.since) for one in await store.read(conditions.all_open)] == [
        ("disk", START),
        ("audit", LATER),
    ]


async def test_what_is_over_is_kept_the_newest_first_and_not_without_end(store: Database) -> None:
    async def say(*codes: str) -> None:
        found = [condition(code) for code in codes]
        await store.transaction(lambda tx: conditions.replace(tx, "audit", found, LATER))

    await store.transaction(lambda tx: conditions.replace(tx, "audit", [condition("a"), condition("b")], START))
    await say("b")
    await say()

    assert await store.read(lambda tx: conditions.past(tx, 9)) == (
        PastCondition(condition("b"), "audit", START, LATER),
        PastCondition(condition("a"), "audit", START, LATER),
    )
    for _ in range(conditions.PAST_ROWS):
        await say("c")
        await say()
    kept = await store.read(lambda tx: conditions.past(tx, 9999))
    assert len(kept) == conditions.PAST_ROWS
    assert {one.condition.problem.code for one in kept} == {"c"}


async def test_the_bell_rings_for_news_and_not_for_other_words(tmp_path: Path) -> None:
    changes = Changes()
    database = Database(tmp_path / "state.db", changes)
    await database.open()
    bell = changes.subscribe(Topic.CONDITIONS)
    worse = replace(condition("a"), severity=Severity.CRITICAL)
    rang = []
    for found in ([condition("a")], [condition("a", "other words")], [worse], [worse, condition("b")], [], []):
        await database.transaction(partial(conditions.replace, source="audit", found=found, now=START))
        rang.append(bell.is_set())
        bell.clear()
    await database.close()

    assert rang == [True, False, True, True, True, False]
