"""`kaalia verification`: whether the marketplace holds this machine for verified, and what is missing if not."""

import os
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.cli.verification import print_verdicts, print_view
from kaalia.contracts import requirements
from kaalia.model.verification import State
from kaalia.wire.verification import VerificationDocument


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia verification; kaalia verification --all; kaalia verification --json")(
        verification
    )


def verification(
    everything: Annotated[bool, typer.Option("--all", help="Show the requirements that are met too.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show whether this machine is verified, and what is missing if it is not. Exit code 1: it is not."""
    document = output.connect(config, socket, dict(os.environ)).verification()
    if as_json:
        output.print_json(document)
    else:
        _print(document, everything, output.console())
    raise typer.Exit(output.OK if document.state == State.VERIFIED else output.REFUSED)


def _print(document: VerificationDocument, everything: bool, out: Console) -> None:
    if document.view is not None:
        print_view(document.view, document.as_of, out)
    else:
        out.print(_word(document))
    shown = document.verdicts if everything else requirements.unmet(document.verdicts)
    out.print()
    if not document.verdicts:
        out.print("This machine has not read itself yet: see kaalia status.")
    elif not shown:
        out.print(
            f"By its own look this machine meets all {len(document.verdicts)} requirements (kaalia verification --all)."
        )
    else:
        out.print("By this machine's own look:")
        print_verdicts(tuple(shown), out)


def _word(document: VerificationDocument) -> str:
    if not document.is_enrolled:
        return "This machine is not enrolled: no marketplace knows it."
    if not document.state:
        return "The marketplace has not said yet how it holds this machine."
    return f"The marketplace says: {document.state}. It does not say why: it is of an older version."
