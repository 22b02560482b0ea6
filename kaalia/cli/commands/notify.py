"""`kaalia notify`: by which channels the owner is told, how they do, and a message to try each of them.

A program of its own. The test needs no daemon: it reads the configuration and sends what the daemon would send.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.client import LocalClient, LocalError
from kaalia.clock import SystemClock
from kaalia.config import load
from kaalia.config_notify import MailConfig, NotifyConfig, WebhookConfig
from kaalia.contracts.notification import Event, Occurrence, State, Told
from kaalia.errors import ConfigError, KaaliaError, UnreachableError
from kaalia.notify.order import Order, Outcome, Parcel, Verdict
from kaalia.notify.secret import Signer, login
from kaalia.notify.service import deliver
from kaalia.wire import notification as wire
from kaalia.wire.notification import NotifyDocument

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: kaalia notify --test; a receiver verifies as docs/notifications.md shows")
def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Send one message by each channel, and say what happened.")
    ] = False,
    config: output.ConfigFile = None,
    socket_file: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show by which channels the owner is told what happens to this machine. Exit code 1: one of them does not work."""
    settings = load(config, os.environ)
    if not settings.notify.channels:
        raise ConfigError(
            "notify_off",
            "cannot tell anybody: the configuration names no channel",
            remedy="write the section notify, as docs/notifications.md shows, then: kaalia notify --test",
        )
    if test:
        outcomes = asyncio.run(_test(settings.notify))
        _print_test(settings.notify, outcomes, as_json=as_json)
        works = all(one.verdict is Verdict.SENT for one in outcomes.values())
        raise typer.Exit(output.OK if works else output.REFUSED)
    _show(settings.notify, socket_file or settings.socket, as_json=as_json)


async def _test(config: NotifyConfig) -> dict[str, Outcome]:
    now = SystemClock().now()
    message = "this is a test: messages of this machine reach you here"
    told = Told(Occurrence(Event.TEST, "test", message, now), State.ONCE)
    parcel = Parcel(message_id=f"msg_{uuid4().hex}", document=wire.encode(told, None, socket.gethostname(), now))

    async def one(channel: WebhookConfig | MailConfig) -> Outcome:
        return (await deliver(Order.by(channel, (parcel,))))[-1]

    outcomes = await asyncio.gather(*(one(channel) for channel in config.channels.values()))
    return dict(zip(config.channels, outcomes, strict=True))


def _print_test(config: NotifyConfig, outcomes: dict[str, Outcome], *, as_json: bool) -> None:
    if as_json:
        output.print_json({name: one.model_dump() for name, one in outcomes.items()})
        return
    rows = ((name, config.channels[name].place, str(one.verdict), one.text, one.code) for name, one in outcomes.items())
    output.print_table(("Channel", "Where", "Test", "~What happened", "Code"), rows, output.console())


def _show(config: NotifyConfig, socket_file: Path, *, as_json: bool) -> None:
    out = output.console()
    document = _ask(socket_file)
    if as_json:
        channels = {name: {"where": one.place, "events": one.events} for name, one in config.channels.items()}
        output.print_json({"channels": channels, "daemon": document})
        return
    seen = {one.name: one for one in document.channels} if document else {}
    rows = []
    for name, channel in config.channels.items():
        view = seen.get(name)
        waiting = str(view.waiting) if view else "-"
        rows.append((name, channel.place, ", ".join(channel.events) or "all", waiting, view.outcome if view else "-"))
    output.print_table(("Channel", "Where", "~Events", ">Waiting", "~Last try"), rows, out)
    _print_secrets(config, out)
    if document is None:
        out.print("The daemon does not answer, or does not know these channels yet: restart it after a change.")
    elif document.newest:
        out.print()
        told = (
            (output.ago(one.created_at, document.as_of), one.channel, one.event, one.outcome or "waits")
            for one in document.newest
        )
        output.print_table((">When", "Channel", "Event", "~What happened"), told, out)


def _print_secrets(config: NotifyConfig, out: Console) -> None:
    """What is wrong with the files, and what receivers need to verify."""
    for name, channel in config.channels.items():
        try:
            if isinstance(channel, WebhookConfig):
                key = Signer(channel.secret_file).public_key
                if key:
                    out.print(f"{name} signs with the key whose public part is {key}", soft_wrap=True)
            elif channel.login_file is not None:
                login(channel.login_file)
        except KaaliaError as error:
            out.print(f"[yellow]{name}: {escape(str(error))}[/]", soft_wrap=True)


def _ask(socket_file: Path) -> NotifyDocument | None:
    try:
        return LocalClient(socket_file).notifications()
    except UnreachableError:
        return None
    except LocalError as error:
        if error.code in ("notify_off", "no_such_path"):
            return None
        raise


if __name__ == "__main__":
    sys.exit(output.run(app, sys.argv[1:], "kaalia notify"))
