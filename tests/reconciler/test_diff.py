"""The next action: a table of what matters, and what holds for the whole product of states."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from kaalia.contracts.wish import Held, Want, Wish
from kaalia.errors import Problem
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler.actions import Action, Clear, Launch, Lose, Nothing, Record, Remove, Renew, Restart, Start, Stop
from kaalia.reconciler.diff import diff, diff_orphan
from kaalia.reconciler.seen import Interruption, Sight
from kaalia.runtime.base import Observed, ObservedState
from tests.support.builders import build_contract, build_gpus, build_status
from tests.support.clock import START

GPU = (build_gpus(1)[0].uuid,)
LATER = START + timedelta(minutes=5)
S, D, W = WorkloadState, ObservedState, Want
LOST = Problem("workload_lost", "cannot find C.51")


def wish(want: Want, **changes: Any) -> Wish:
    granted = GPU if want is Want.RUN else ()
    problem = Problem("not_listed", "cannot accept") if want is Want.REJECT else None
    return Wish(build_contract(**changes), want, granted, f"{want}", problem)


def seen(state: ObservedState, **changes: Any) -> Observed:
    is_over = state in (D.EXITED, D.DEAD)
    observed = Observed(
        contract_id=51,
        generation=1,
        name="C.51",
        container_id="c" * 64,
        state=state,
        gpu_uuids=GPU,
        ports=build_status().ports,
        started_at=None if state is D.CREATED else START,
        finished_at=START + timedelta(minutes=1) if is_over else None,
        exit_code=0 if is_over else None,
    )
    return replace(observed, **changes)


def row(state: WorkloadState, **changes: Any) -> WorkloadStatus:
    has_container = state not in (S.WAITING, S.REJECTED, S.PULLING, S.CREATING, S.ENDED)
    return build_status(**{"state": state, "container_id": "c" * 64 if has_container else None, **changes})


TABLE: list[tuple[str, Want, WorkloadStatus | None, Observed | Sight, type[Action]]] = [
    ("new", W.RUN, None, Sight.ABSENT, Launch),
    ("waited long enough", W.RUN, row(S.WAITING), Sight.ABSENT, Launch),
    ("crashed in a pull", W.RUN, row(S.PULLING), Sight.ABSENT, Launch),
    ("crashed before create", W.RUN, row(S.CREATING), Sight.ABSENT, Launch),
    ("crashed after create", W.RUN, row(S.CREATING), seen(D.CREATED), Start),
    ("crashed after start", W.RUN, row(S.CREATING), seen(D.RUNNING), Record),
    ("all well", W.RUN, row(S.RUNNING), seen(D.RUNNING), Nothing),
    ("engine came back", W.RUN, row(S.UNKNOWN), seen(D.RUNNING), Record),
    ("books lost", W.RUN, None, seen(D.RUNNING), Record),
    ("ended by itself", W.RUN, row(S.RUNNING), seen(D.EXITED), Record),
    ("stays ended", W.RUN, row(S.EXITED), seen(D.EXITED), Nothing),
    ("renter starts again", W.RUN, row(S.STOPPED), seen(D.EXITED), Start),
    ("crashed in a stop, then start", W.RUN, row(S.STOPPING), seen(D.EXITED), Start),
    ("crashed in a stop that is not over, then start", W.RUN, row(S.STOPPING), seen(D.RUNNING), Stop),
    ("crashed in a stop that is not over, then wait", W.WAIT, row(S.STOPPING), seen(D.RUNNING), Stop),
    ("somebody removed it", W.RUN, row(S.RUNNING), Sight.ABSENT, Lose),
    ("somebody removed a stopped one", W.STOP, row(S.STOPPED), Sight.ABSENT, Lose),
    ("told that it is lost", W.RUN, row(S.FAILED, problem=LOST, container_id=None), Sight.ABSENT, Nothing),
    ("somebody paused it", W.RUN, row(S.RUNNING), seen(D.PAUSED), Record),
    ("on its way out", W.RUN, row(S.RUNNING), seen(D.REMOVING), Nothing),
    ("restarting", W.RUN, row(S.RUNNING), seen(D.RESTARTING), Nothing),
    ("dead", W.RUN, row(S.RUNNING), seen(D.DEAD), Record),
    ("known dead", W.RUN, row(S.FAILED), seen(D.DEAD), Nothing),
    ("stop", W.STOP, row(S.RUNNING), seen(D.RUNNING), Stop),
    ("stop what is paused", W.STOP, row(S.STOPPED), seen(D.PAUSED), Stop),
    ("stop what is not there yet", W.STOP, row(S.PULLING), Sight.ABSENT, Record),
    ("stop of a launch that broke off", W.STOP, row(S.CREATING), Sight.ABSENT, Clear),
    ("stopped", W.STOP, row(S.STOPPED, status_msg="stop"), seen(D.EXITED), Nothing),
    ("stopped, never started", W.STOP, None, Sight.ABSENT, Record),
    ("end", W.END, row(S.RUNNING), seen(D.RUNNING), Remove),
    ("end of what never was", W.END, None, Sight.ABSENT, Remove),
    ("ended", W.END, row(S.ENDED), Sight.ABSENT, Nothing),
    ("ended, but it came back", W.END, row(S.ENDED), seen(D.CREATED), Remove),
    ("end of a dead one", W.END, row(S.FAILED), seen(D.DEAD), Remove),
    ("reject", W.REJECT, None, Sight.ABSENT, Record),
    ("wait", W.WAIT, None, Sight.ABSENT, Record),
    ("wait, told already", W.WAIT, row(S.WAITING, status_msg="wait"), Sight.ABSENT, Nothing),
    ("yield", W.YIELD, row(S.RUNNING), seen(D.RUNNING), Stop),
    ("yielded", W.YIELD, row(S.STOPPED, status_msg="yield"), seen(D.EXITED), Nothing),
    ("yields before it ever ran", W.YIELD, row(S.PULLING), Sight.ABSENT, Record),
    ("an ended one gives its GPUs back", W.YIELD, row(S.EXITED), seen(D.EXITED), Record),
    ("yields to a higher rank, then resumes", W.RUN, row(S.STOPPED, status_msg="yield"), seen(D.EXITED), Start),
    ("nothing is stopped for waiting", W.WAIT, row(S.RUNNING), seen(D.RUNNING), Nothing),
]


@pytest.mark.parametrize(("want", "books", "sight", "kind"), [case[1:] for case in TABLE], ids=[c[0] for c in TABLE])
def test_next_action(want: Want, books: WorkloadStatus | None, sight: Observed | Sight, kind: type[Action]) -> None:
    assert isinstance(diff(wish(want), books, sight, LATER), kind)


ROWS = [None, *(row(state) for state in WorkloadState), row(S.EXITED, exit_code=137)]
SIGHTS: list[Observed | Sight] = [*Sight, *(seen(state) for state in ObservedState), seen(D.EXITED, exit_code=255)]
INTERRUPTIONS = [(), (Interruption(START, LATER),)]
CONTRACTS: list[dict[str, Any]] = [{}, {"restart_count": 1}, {"generation": 2}]
PRODUCT = list(product(Want, ROWS, SIGHTS, INTERRUPTIONS, CONTRACTS))


def test_the_whole_product_keeps_the_rules() -> None:
    assert len(PRODUCT) > 4000
    broken = []
    for want, books, sight, interruptions, changes in PRODUCT:
        asked = wish(want, **changes)
        action = diff(asked, books, sight, LATER, interruptions)
        if not is_allowed(action, asked, books, sight):
            broken.append((want, books and books.state, sight, changes, action))
    assert broken == []


def is_allowed(action: Action, asked: Wish, books: WorkloadStatus | None, sight: Observed | Sight) -> bool:
    """The rules at the head of `diff`, as what each action presupposes."""
    if not isinstance(sight, Observed):
        return action == Nothing() if sight is Sight.UNKNOWN else may_do_without_container(action, asked, books)
    return may_do_with_container(action, asked, books, sight)


def may_do_without_container(action: Action, asked: Wish, books: WorkloadStatus | None) -> bool:
    match action:
        case Launch():
            is_new = books is None or books.container_id is None or books.generation < asked.contract.generation
            return asked.want is W.RUN and is_new
        case Remove():
            return asked.want is W.END
        case Record():
            return action.status.state is not S.RUNNING
        case Clear():
            is_broken_off = books is not None and books.state in (S.CREATING, S.STARTING, S.REMOVING)
            return is_broken_off and asked.want in (W.STOP, W.WAIT, W.YIELD)
        case _:
            return isinstance(action, Lose | Nothing)


def may_do_with_container(action: Action, asked: Wish, books: WorkloadStatus | None, observed: Observed) -> bool:
    match action:
        case Stop():
            was_begun = books is not None and books.state is S.STOPPING
            return asked.want in (W.STOP, W.YIELD) or was_begun
        case Remove():
            return asked.want is W.END
        case Renew():
            return asked.want is W.RUN and observed.generation < asked.contract.generation
        case Restart():
            return asked.want is W.RUN and asked.contract.restart_count == 1
        case Start():
            return asked.want is W.RUN and observed.state in (D.CREATED, D.EXITED)
        case Record():
            return (action.status.state is S.RUNNING) == (observed.state is D.RUNNING)
        case _:
            return isinstance(action, Nothing)


@pytest.mark.parametrize("want", [W.WAIT, W.YIELD])
@pytest.mark.parametrize("state", [S.PULLING, S.CREATING, S.STARTING, S.REMOVING, S.STOPPED])
def test_what_was_begun_and_waits_again_stays_admitted(want: Want, state: WorkloadState) -> None:
    """As while a recycle has removed the old container, and a GPU does not answer for a moment."""
    action = diff(wish(want), row(state, container_id=None), Sight.ABSENT, LATER)

    assert isinstance(action, Record | Clear)
    assert isinstance(action, Clear) is (state in (S.CREATING, S.STARTING, S.REMOVING)), "its network may be there"
    assert not Held(wish(want).contract, action.status).is_new
    assert isinstance(diff(wish(want), action.status, Sight.ABSENT, LATER), Nothing)
    assert isinstance(diff(wish(W.RUN), action.status, Sight.ABSENT, LATER), Launch)


def test_what_is_recorded_is_not_recorded_again() -> None:
    for want, books, sight, interruptions, changes in PRODUCT:
        action = diff(wish(want, **changes), books, sight, LATER, interruptions)
        if isinstance(action, Record):
            again = diff(wish(want, **changes), action.status, sight, LATER, interruptions)
            assert not isinstance(again, Record), (want, books, sight, changes, action, again)


@pytest.mark.parametrize(
    ("books", "began", "ended", "exit_code", "kind"),
    [
        (row(S.RUNNING), 0, 10, 0, Start),
        (row(S.UNKNOWN), 0, 10, 137, Start),
        (row(S.RUNNING), 2, 10, 0, Record),
        (row(S.EXITED), 0, 10, 0, Nothing),
        (row(S.EXITED), 0, 10, 143, Start),
        (row(S.EXITED), 2, 10, 143, Nothing),
        (row(S.RUNNING), -20, -10, 143, Record),
    ],
)
def test_what_the_machine_ended_is_started_again(
    books: WorkloadStatus, began: int, ended: int, exit_code: int, kind: type[Action]
) -> None:
    outage = Interruption(START + timedelta(minutes=began), START + timedelta(minutes=ended))

    action = diff(wish(W.RUN), books, seen(D.EXITED, exit_code=exit_code), LATER, (outage,))

    assert isinstance(action, kind)


@pytest.mark.parametrize(("ends_all", "kind"), [(False, Nothing), (True, Start)])
def test_a_polite_end_is_not_the_workloads_own_where_nothing_survives(ends_all: bool, kind: type[Action]) -> None:
    outage = Interruption(START, START + timedelta(minutes=10), ends_all)

    action = diff(wish(W.RUN), row(S.EXITED), seen(D.EXITED, exit_code=0), LATER, (outage,))

    assert isinstance(action, kind)


@pytest.mark.parametrize(
    ("state", "end_in_s", "missing_s", "revisions", "kind"),
    [
        (D.RUNNING, 60, 0, 0, Nothing),
        (D.RUNNING, 0, 0, 0, Stop),
        (D.EXITED, 0, 0, 0, Nothing),
        (D.RUNNING, None, 9999, 1, Nothing),
        (D.RUNNING, None, 1800, 2, Remove),
        (D.RUNNING, None, 1799, 5, Nothing),
    ],
)
def test_orphans_run_until_their_label_or_the_marketplace_ends_them(
    state: ObservedState, end_in_s: int | None, missing_s: int, revisions: int, kind: type[Action]
) -> None:
    end_at = None if end_in_s is None else START + timedelta(seconds=end_in_s)

    action = diff_orphan(seen(state, end_at=end_at), START - timedelta(seconds=missing_s), revisions, START)

    assert isinstance(action, kind)
