"""The commands that ask the daemon, and a line of help for each of the others."""

from collections.abc import Callable
from typing import Annotated

import typer

from kaalia import __version__
from kaalia.cli import programs
from kaalia.cli.commands import (
    canary,
    contracts,
    daemon,
    disk,
    doctor,
    drain,
    ledger,
    metrics,
    ports,
    reliability,
    report,
    speedtest,
    status,
    verification,
)


def build() -> typer.Typer:
    """All of `kaalia`, for its help too."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(
        epilog="Start here: kaalia status. Exit codes: 0 well, 1 refused or unhealthy, 2 wrong usage or could not run."
    )(_root)
    questions = (
        status,
        doctor,
        canary,
        report,
        reliability,
        contracts,
        drain,
        ledger,
        disk,
        ports,
        speedtest,
        metrics,
        verification,
    )
    for command in (*questions, daemon):
        command.add_to(app)
    for name, summary in programs.PROGRAMS.items():
        app.command(
            name,
            help=summary,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_program(name))
    return app


def _program(name: str) -> Callable[[typer.Context], None]:
    def go_on(context: typer.Context) -> None:
        programs.become(programs.module(name), context.args)

    return go_on


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kaalia {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The open host daemon for GPU providers."""
