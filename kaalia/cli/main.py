"""The command `kaalia`. What only asks the daemon is answered here; heavier commands are programs of their own, so
that `kaalia status` need not import them."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from kaalia import __version__
from kaalia.cli import output
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

PROGRAMS = {
    "enroll": "Enrol this machine with a marketplace.",
    "notify": "Show by which channels the owner is told what happens here; --test tries them.",
    "nvml": "Ask the NVIDIA driver, and show what it says; hosts know it as test_nvml.py.",
    "send-report": "Have the machine read and reported now; hosts know it as send_mach_info.py.",
    "power": "Show power limits and clocks, and what the policy would do; --restore puts them back.",
    "self-test": "Prove this machine: GPUs, memory, links, CPU, disk, network and ports; nothing is rented for it.",
    "support-bundle": "Write what helps to find a fault into a file, without secrets; nothing is sent.",
    "probe": "Be a prober: try the ports of machines that ask for it, and measure their speed.",
    "relay": "Be a relay: let renters in to machines without open ports.",
    "marketplace": "Run the reference marketplace: serve, users, enrolment tokens.",
}
"""Commands that are modules to be run, `kaalia.cli.commands.<name>`; they print their own help."""


def main(argv: list[str] | None = None) -> int:
    return output.run(_build(), sys.argv[1:] if argv is None else argv, "kaalia")


def _build() -> typer.Typer:
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
    for name, summary in PROGRAMS.items():
        app.command(
            name,
            help=summary,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_program(name))
    return app


def _program(name: str) -> Callable[[typer.Context], None]:
    def go_on(context: typer.Context) -> None:
        output.become(f"kaalia.cli.commands.{name.replace('-', '_')}", context.args)

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


if __name__ == "__main__":
    sys.exit(main())
