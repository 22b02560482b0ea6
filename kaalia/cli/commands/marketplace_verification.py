"""`kaalia marketplace verification ...`: why machines are verified or not, and the operator's own word on it."""

from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.cli.market_data import DEFAULT_DATA, DataDir, at_the_database
from kaalia.cli.verification import print_view
from kaalia.clock import SystemClock
from kaalia.marketplace import verification_by_hand

Machine = Annotated[int, typer.Argument(metavar="MACHINE", help="The machine's number.")]

verification = typer.Typer(no_args_is_help=True, help="Which machines are verified, and why.")


@verification.command()
def show(machine: Machine, data: DataDir = DEFAULT_DATA, as_json: output.AsJson = False) -> None:
    """What a machine is held for, what costs it that, and what it lacks."""
    view = at_the_database(data, lambda engine: verification_by_hand.view(engine, machine, SystemClock().now()))
    if as_json:
        output.print_json(view)
    else:
        print_view(view, SystemClock().now(), output.console())


@verification.command()
def bar(
    machine: Machine,
    words: Annotated[str, typer.Option("--words", metavar="TEXT", help="Why; its owner reads it.")],
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Take a machine's verification back by hand, and its offers off the market. What runs there goes on."""
    at_the_database(data, lambda engine: verification_by_hand.bar(engine, machine, words, SystemClock().now()))
    typer.echo(f"machine {machine} is deverified and off the market, until: verification lift {machine}")


@verification.command()
def lift(machine: Machine, data: DataDir = DEFAULT_DATA) -> None:
    """Take that back: the machine is judged again with its next heartbeat."""
    at_the_database(data, lambda engine: verification_by_hand.lift(engine, machine, SystemClock().now()))
    typer.echo(f"machine {machine} is judged again with its next heartbeat")
