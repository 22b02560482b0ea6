"""What a machine lost and gained, what that does to its offers, and what is no change at all."""

from dataclasses import replace
from datetime import timedelta

from kaalia.contracts.hardware import TOLD_FOR, Book, Kind, advance, conditions, inventory
from kaalia.model.health import HOST, Severity
from kaalia.model.machine import MachineReport, Memory, Missing
from kaalia.units import GIB
from tests.support.builders import build_gpus, build_report
from tests.support.clock import START

EIGHT = build_report(gpus=8)
SEVEN = replace(EIGHT, gpus=EIGHT.gpus[:3] + EIGHT.gpus[4:])
LOST = EIGHT.gpus[3].uuid
LATER = START + timedelta(minutes=1)


def look(book: Book | None, report: MachineReport, at_s: float = 60.0, owners: dict[str, int] | None = None) -> Book:
    at = START + timedelta(seconds=at_s)
    return advance(book, inventory(report, book.known if book else None), at, owners=owners or {})


def test_the_first_look_is_no_change() -> None:
    assert look(None, EIGHT).changes == ()


def test_a_lost_gpu_is_told_with_what_it_ends_and_whose_it_is() -> None:
    book = look(look(None, EIGHT), SEVEN, owners={LOST: 51})

    (change,) = book.changes
    assert (change.kind, change.scope) == (Kind.GPU_GONE, LOST)
    assert "7 of 8 GeForce RTX 4090 24 GiB are left" in change.consequence
    assert "this ends offers of 8" in change.consequence
    assert "C.51, which has it, is not stopped" in change.consequence
    (told,) = conditions(book, LATER)
    assert (told.problem.code, told.severity, told.scope) == ("gpu_gone", Severity.WARN, LOST)
    assert told.problem.message.startswith("cannot ")


def test_it_is_told_once_and_over_when_it_is_back() -> None:
    gone = look(look(None, EIGHT), SEVEN)
    still = look(gone, SEVEN, 120)
    back = look(still, EIGHT, 180)

    assert still == gone
    assert [(one.kind, one.until) for one in back.changes] == [(Kind.GPU_GONE, START + timedelta(seconds=180))]
    assert conditions(back, LATER) == []


def test_one_that_stays_away_was_taken_out() -> None:
    gone = look(look(None, EIGHT), SEVEN)

    assert conditions(gone, START + TOLD_FOR)
    assert conditions(gone, LATER + TOLD_FOR) == []


def test_a_driver_that_does_not_answer_has_lost_nothing() -> None:
    book = look(None, EIGHT)
    silent = replace(EIGHT, gpus=(), driver=None, missing=(Missing("gpus", "the driver did not answer"),))
    one_unread = replace(SEVEN, missing=(Missing("gpus.3", "cannot read its uuid"),))

    assert look(book, silent) == book
    assert {card.uuid for card in look(book, one_unread).known.cards} == {gpu.uuid for gpu in EIGHT.gpus}
    assert look(book, one_unread).changes == ()


def test_a_new_gpu_begins_offers() -> None:
    book = look(look(None, SEVEN), EIGHT)

    (change,) = book.changes
    assert (change.kind, change.scope) == (Kind.GPU_ADDED, LOST)
    assert "this ends offers of 7, this begins offers of 8" in change.consequence
    assert [one.severity for one in conditions(book, LATER)] == [Severity.WARN]


def test_models_are_told_apart() -> None:
    others = build_gpus(9, "NVIDIA GeForce RTX 5060 Ti", 16311)[8:]
    book = look(look(None, replace(EIGHT, gpus=(*EIGHT.gpus, *others))), EIGHT)

    (change,) = book.changes
    assert "0 of 1 GeForce RTX 5060 Ti 16 GiB are left; this ends offers of 1" in change.consequence


def test_memory_and_disk_that_differ_are_told_and_what_the_kernel_takes_is_not() -> None:
    book = look(None, EIGHT)
    a_little = replace(EIGHT, memory=Memory(EIGHT.memory.total_bytes - GIB, GIB))
    half = replace(EIGHT, memory=Memory(128 * GIB, GIB))
    no_engine = replace(half, engine=None, disk=replace(EIGHT.disk, total_bytes=1) if EIGHT.disk else None)

    assert look(book, a_little).changes == ()
    (change,) = look(look(book, a_little), no_engine).changes
    assert (change.kind, change.scope) == (Kind.RESIZED, HOST)
    assert change.message == "memory was 256.0 GiB, and is 128.0 GiB"
