"""`kaalia drain`: admit nothing new, and wait until nothing of a renter is left that runs or may start again."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.client import LocalClient
from kaalia.contracts import cordon
from kaalia.errors import ConfigError, UnreachableError
from kaalia.wire.local import DrainStatus, Holder

LOOK_S = 1.0
LIFT = "lift it with: kaalia drain --cancel"

Until = Annotated[
    str,
    typer.Option("--until", metavar="DATE", help="The cordon lifts by itself then: 2026-12-01, '2026-12-01 14:00'."),
]
ShowOnly = Annotated[bool, typer.Option("--status", help="Only show: exit code 0 when vacant, 1 when held.")]
Lift = Annotated[bool, typer.Option("--cancel", help="Admit new rentals again.")]


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: kaalia drain && reboot; kaalia drain --until '2026-12-01 14:00'; kaalia drain --status; "
        "kaalia drain --cancel. Times are UTC unless they name a zone. Exit codes: 0 vacant or lifted, 1 still held, "
        "2 no daemon or wrong usage."
    )(drain)


def drain(
    until: Until = "",
    show_only: ShowOnly = False,
    cancel: Lift = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Cordon this machine (no new rentals, at once and across restarts) and wait until it is vacant.

    Nothing that runs is stopped but the owner's default job, which comes back when the cordon is lifted.
    Ctrl-C ends the waiting, not the cordon.
    """
    if show_only + cancel + bool(until) > 1:
        raise typer.BadParameter("--until, --status and --cancel exclude each other")
    client = output.connect(config, socket, dict(os.environ))
    screen = _Screen(output.console(), as_json)
    if cancel:
        screen.lifted(client.drain(), client.uncordon())
        return
    if show_only:
        screen.show(status := client.drain())
    else:
        status = client.cordon(_date(until) if until else None)
        screen.placed(status)
        status = _wait(client, status, screen)
        screen.over(status)
    raise typer.Exit(output.OK if status.is_vacant and (show_only or status.cordon) else output.REFUSED)


def _wait(client: LocalClient, status: DrainStatus, screen: "_Screen") -> DrainStatus:
    """Until it is vacant, or the cordon is gone, or the owner has seen enough."""
    try:
        with screen.waiting(status):
            while status.cordon is not None and not status.is_vacant:
                time.sleep(LOOK_S)
                before, status = status, _look(client, status, screen)
                screen.moved(before, status)
    except KeyboardInterrupt:
        screen.interrupted(status)
        raise typer.Exit(output.REFUSED) from None
    return status


def _look(client: LocalClient, last: DrainStatus, screen: "_Screen") -> DrainStatus:
    """A daemon that restarts keeps the cordon: it is waited for."""
    try:
        return client.drain()
    except UnreachableError:
        screen.silent()
        return last


class _Screen:
    """What a person sees; with `as_json` one document at the end."""

    def __init__(self, out: Console, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._spinner = out.status("")
        self._is_silent = False

    @contextmanager
    def waiting(self, status: DrainStatus) -> Iterator[None]:
        """A line that lives, on a terminal."""
        if self._as_json or not self._out.is_terminal:
            yield
            return
        self._spinner.update(_living(status))
        with self._spinner:
            yield

    def placed(self, status: DrainStatus) -> None:
        if self._as_json:
            return
        self._show(status)
        if status.holders:
            self._say("Waiting until nothing holds the machine. Ctrl-C ends the waiting; the cordon stays.")

    def show(self, status: DrainStatus) -> None:
        if self._as_json:
            output.print_json(status)
        else:
            self._show(status)

    def moved(self, before: DrainStatus, status: DrainStatus) -> None:
        """One line for each change, and the time that passes in the living line."""
        if status.as_of > before.as_of:
            self._is_silent = False
        now = {one.contract_id for one in status.holders}
        for one in before.holders:
            if one.contract_id not in now:
                self._say(f"Contract {one.contract_id} holds it no more, {len(now)} left.")
        for one in status.holders:
            was = next((old for old in before.holders if old.contract_id == one.contract_id), None)
            if was is None or was.shown != one.shown:
                self._say(f"Contract {one.contract_id} is {_shown(one)}.")
        self._spinner.update(_living(status))

    def silent(self) -> None:
        """Said once."""
        if not self._is_silent:
            self._say("The daemon does not answer. The cordon stands; waiting for the daemon.")
        self._is_silent = True

    def over(self, status: DrainStatus) -> None:
        if self._as_json:
            output.print_json(status)
        elif status.cordon is None:
            self._say("The cordon was lifted before the machine was vacant: new rentals are admitted again.")
        else:
            self._say(f"Vacant. The cordon stands; {LIFT}")

    def interrupted(self, status: DrainStatus) -> None:
        if self._as_json:
            output.print_json(status)
        else:
            self._say(f"Not waiting any longer: {_held(status)}. The cordon stands, nothing new is admitted; {LIFT}")

    def lifted(self, before: DrainStatus, status: DrainStatus) -> None:
        if self._as_json:
            output.print_json(status)
        elif before.cordon is None:
            self._say("There was no cordon: new rentals are admitted.")
        else:
            self._say("The cordon is lifted: new rentals are admitted again.")

    def _show(self, status: DrainStatus) -> None:
        placed = status.cordon
        if placed is None:
            self._say("Not draining: new rentals are admitted.")
        else:
            since = output.moment(placed.placed_at)
            self._say(f"{_sentence(cordon.in_short(placed))}: nothing new is admitted since {since}.")
        self._say(f"{_sentence(_held(status))}.")
        if status.holders:
            _table(status, self._out)
        if placed is not None and placed.until_at is not None and status.holders:
            self._say(_by_the_date(status.holders, placed.until_at))

    def _say(self, line: str) -> None:
        if not self._as_json:
            self._out.print(line, markup=False, soft_wrap=True)


def _table(status: DrainStatus, out: Console) -> None:
    columns = (">ID", "Kind", "Renter sees", "Ends", ">Left")
    rows = (
        (
            str(one.contract_id),
            one.kind.value,
            _shown(one),
            output.moment(one.end_at) if one.end_at else "open",
            _left(one.end_at, status.as_of),
        )
        for one in status.holders
    )
    output.print_table(columns, rows, out)


def _left(end_at: datetime | None, now: datetime) -> str:
    return "-" if end_at is None else output.span(end_at - now) if end_at > now else "none"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shown(one: Holder) -> str:
    return one.shown or "scheduling"


def _held(status: DrainStatus) -> str:
    if status.is_vacant:
        return "vacant"
    if not status.holders:
        return "held: the daemon has not taken the cordon in yet (see: kaalia status)"
    count = len(status.holders)
    return f"held by {count} contract{'s' if count > 1 else ''}"


def _by_the_date(holders: tuple[Holder, ...], until_at: datetime) -> str:
    """Who is gone when the cordon lifts."""
    date = output.moment(until_at)
    late = [str(one.contract_id) for one in holders if one.end_at is None or one.end_at > until_at]
    if not late:
        return f"All of them end before {date}."
    early = [str(one.contract_id) for one in holders if str(one.contract_id) not in late]
    ends = f"Before {date} end: {', '.join(early)}. " if early else ""
    return f"{ends}Past {date} go on, unless their renters end them: {', '.join(late)}."


def _living(status: DrainStatus) -> str:
    since = f" for {output.span(status.as_of - status.cordon.placed_at)}" if status.cordon else ""
    ends = [one.end_at for one in status.holders]
    if not ends or None in ends:
        return f"cordoned{since}, {_held(status)}"
    last = max(end for end in ends if end is not None)
    return f"cordoned{since}, {_held(status)}, the last one ends {output.ago(last, status.as_of)}"


def _date(text: str) -> datetime:
    """A date or a time, UTC unless it names a zone. Raises ConfigError."""
    try:
        is_epoch = text.isdecimal() and len(text) > len("20261201")
        at = datetime.fromtimestamp(int(text), UTC) if is_epoch else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            "drain_until_invalid",
            f"cannot drain until {text[:40]!r}: it is no date",
            remedy="write 2026-12-01, '2026-12-01 14:00', 2026-12-01T14:00+02:00, or seconds since 1970",
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)
