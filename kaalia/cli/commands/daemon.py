"""`kaalia daemon`: becomes the daemon's process; nothing of the command line stays in memory."""

from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.cli.programs import become


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: kaalia daemon --config /etc/kaalia/kaalia.yaml --check")(daemon)


def daemon(
    config: output.ConfigFile = None,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration and exit.")] = False,
) -> None:
    """Run the host daemon in the foreground, until SIGTERM. Tenants run on when it stops."""
    args = ["--config", str(config)] if config else []
    become("kaalia.daemon", [*args, "--check"] if check else args)
