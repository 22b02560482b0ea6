"""`kaalia speedtest`: how fast bytes go between this machine and a peer, measured now, or as it was found last."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.errors import HostError
from kaalia.host import secret
from kaalia.model.speed import Direction, Figure, MeasuredSpeed, SpeedProgress
from kaalia.wire.local import SpeedDocument, SpeedWish

WAIT_S = 240.0
"""A test and its retries by the kernel take less than two minutes at worst."""
WORDS = {None: "asking the peer", Direction.DOWN: "down", Direction.UP: "up"}


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: kaalia speedtest; kaalia speedtest --last --json; "
        "kaalia speedtest --peer 198.51.100.4:8091 --secret-file /root/speed.secret"
    )(speedtest)


def speedtest(
    peer: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="With this peer: `kaalia probe speed` runs there.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What this machine and that peer both know.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Though tenants run: it takes the line from them.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Measure nothing, show the newest result.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Measure the speed of the line, down and up, and put it into the machine's report."""
    client = output.connect(config, socket, dict(os.environ))
    if last:
        document = client.speed()
    else:
        shared = secret.read(secret_file) if secret_file else ""
        document = _measured(client, SpeedWish(peer, shared, force), quiet=as_json)
    if as_json:
        output.print_json(document)
    else:
        _print(document, output.console())


def _measured(client: LocalClient, wish: SpeedWish, *, quiet: bool) -> SpeedDocument:
    """Order a test and follow it to its end. Raises HostError when there is no new result."""
    before = client.order_speed(wish)
    screen = output.console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:<16}"), BarColumn(40), TextColumn("{task.fields[rate]}"), console=screen
    )
    with bar if screen.is_terminal and not quiet else nullcontext():
        task = bar.add_task(WORDS[None], total=1.0, rate="")

        def show(document: SpeedDocument) -> None:
            if (now := document.progress) is not None:
                bar.update(task, description=WORDS[now.direction], completed=now.share, rate=_rate(now))

        document = follow(client.speed, lambda one: one.is_under_way, WAIT_S, show=show)
        bar.update(task, completed=1.0)
    if document.found is not None and document.found != before.found:
        return document
    failure = document.failure.problem if document.failure and document.failure != before.failure else None
    raise HostError(
        failure.code if failure else "speed_unfinished",
        failure.message if failure else "cannot show a new result: the test has not ended",
        remedy=failure.remedy if failure else "see the log of the daemon; ask again: kaalia speedtest --last",
        evidence=failure.evidence if failure else "",
    )


def _rate(progress: SpeedProgress) -> str:
    return f"{progress.mbps:,.0f} Mb/s"


def _print(document: SpeedDocument, out: Console) -> None:
    if document.is_under_way:
        out.print("A test is under way.")
    if document.failure is not None:
        output.print_problem(document.failure.problem, out)
    if document.found is None:
        out.print("The speed was never measured. Measure it now: kaalia speedtest")
        return
    _print_result(document.found, out)


def _print_result(found: MeasuredSpeed, out: Console) -> None:
    limited = ", limited: tenants ran" if found.limited else ""
    output.print_pairs(
        [
            ("Peer", found.peer),
            ("Measured", f"{output.moment(found.measured_at)}{limited}"),
            ("Method", f"{found.streams} {found.method}; {found.processes} processes here"),
        ],
        out,
    )
    out.print()
    columns = ("", ">Mb/s", ">Counted", ">Spread", ">95 %", "Confidence", ">Own CPU")
    output.print_table(columns, (_row("down", found.down), _row("up", found.up)), out)


def _row(name: str, one: Figure) -> tuple[str, ...]:
    return (
        name,
        f"{one.mbps:,.1f}",
        f"{one.duration_s:.1f} s",
        f"{one.spread:.1%}",
        f"± {one.margin:.1%}",
        one.confidence.value,
        f"{one.cpu_percent:.0f} %",
    )
