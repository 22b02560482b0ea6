"""`kaalia canary`: whether the machine has proven itself by a container of its own, step by step; runs it on wish."""

import os
import time
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.errors import HostError
from kaalia.model.canary import CanaryRun, CanaryState, Cause
from kaalia.wire.canary import CanaryDocument

WAIT_S = 300.0
"""Longer than any run; one that has to wait says so much sooner."""
PATIENCE_S = 5.0
"""So long another one may be about to make room."""
_CAUSES = {
    Cause.INSTALL: "after the installation",
    Cause.BOOT: "after the boot",
    Cause.UPGRADE: "after an upgrade",
    Cause.AGAIN: "after a failure",
    Cause.IDLE: "now and then",
    Cause.ASKED: "asked for",
}


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia canary; kaalia canary --now; kaalia canary --json | jq .state.last")(canary)


def canary(
    now: Annotated[bool, typer.Option("--now", help="Run it, as soon as a GPU is free, and show how it went.")] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="With --now: for its end.")
    ] = WAIT_S,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show whether a container of the machine's own had its GPUs, network, ports and disk. Exit code 1: it had not."""
    client = output.connect(config, socket, dict(os.environ))
    document = _run(client, wait) if now else client.canary()
    if as_json:
        output.print_json(document)
    else:
        _print(document, output.console())
    last = document.state.last
    raise typer.Exit(output.REFUSED if last is not None and not last.has_passed else output.OK)


def _run(client: LocalClient, wait_s: float) -> CanaryDocument:
    """Order a run and follow it to its end. Raises HostError when it has to wait itself."""
    before, begun_s = client.order_canary().state.last, time.monotonic()

    def is_new(state: CanaryState) -> bool:
        return state.last != before and state.asked_at is None

    def is_held_up(state: CanaryState) -> bool:
        is_due = state.running_since is None and bool(state.waits_for)
        return is_due and time.monotonic() - begun_s >= min(PATIENCE_S, wait_s)

    document = follow(client.canary, lambda one: not (is_new(one.state) or is_held_up(one.state)), wait_s)
    if not is_new(document.state):
        raise HostError(
            "canary_waits",
            f"cannot show a new run yet: {document.state.waits_for or 'it has not ended'}",
            remedy="it is run as soon as it can be; see: kaalia canary",
        )
    return document


def _print(document: CanaryDocument, out: Console) -> None:
    out.print(line(document.state, document.as_of))
    if (last := document.state.last) is not None:
        out.print()
        output.print_pairs([(str(one.step), f"{one.outcome}: {one.words}") for one in last.steps], out)
        out.print()
        output.print_pairs(_facts(last), out)
    out.print(_next(document))


def line(state: CanaryState, as_of: datetime) -> str:
    """The newest word in a line, for `kaalia doctor` too."""
    if state.last is None:
        told = "Canary: this machine has not proven itself yet."
    else:
        word = "passed" if state.last.has_passed else "failed"
        told = f"Canary: {word} {output.ago(state.last.ended_at, as_of)}, {_CAUSES[state.last.cause]}."
    if state.running_since is not None:
        return f"{told} A run is under way."
    return f"{told} The next one waits: {state.waits_for}." if state.waits_for else told


def _facts(last: CanaryRun) -> list[tuple[str, str]]:
    known = last.versions
    took_s = (last.ended_at - last.began_at).total_seconds()
    return [
        ("Ended", f"{output.moment(last.ended_at)}, after {took_s:.1f} s"),
        ("With", f"kaalia {known.agent}, driver {known.driver or 'none'}, Docker {known.engine or 'none'}"),
    ]


def _next(document: CanaryDocument) -> str:
    state, hours = document.state, document.every_hours
    if hours is None:
        return "It is off (canary.every_hours): run only by kaalia canary --now."
    if state.broken and state.last is not None and state.last.proves_machine:
        uuids = ", ".join(one.uuid for one in state.broken)
        return f"It is run again by itself until it passes; meanwhile all is rented out but what failed: {uuids}."
    if state.last is None or not state.last.has_passed:
        return "It is run again by itself until it passes; nothing new is rented out meanwhile."
    at = state.last.ended_at + timedelta(hours=hours)
    return f"The next one: from {output.moment(at)} on, when nobody rents; after a boot or an upgrade at once."
