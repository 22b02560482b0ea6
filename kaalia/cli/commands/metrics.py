"""`kaalia metrics`: what Prometheus reads, as text; for a file that node_exporter collects, or for a look."""

import os
import sys
from typing import Annotated

import typer

from kaalia.cli import output


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia metrics | grep gpu; kaalia metrics --contract 51")(metrics)


def metrics(
    contract: Annotated[
        int | None,
        typer.Option("--contract", metavar="ID", min=1, help="Only what the tenant of this contract may see."),
    ] = None,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
) -> None:
    """Print the daemon's metrics in Prometheus' text format."""
    sys.stdout.write(output.connect(config, socket, dict(os.environ)).metrics(contract))
