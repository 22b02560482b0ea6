"""`kaalia ledger [RESOURCE]`: who has which GPU, port, subnet, and how much disk, CPU and memory; what is free."""

import os
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.units import format_bytes
from kaalia.wire.ledger import LedgerDocument, LedgerRow, LedgerView, Resource

_NAMES = {
    Resource.GPU: "GPUs",
    Resource.PORTS: "Ports",
    Resource.DISK: "Disk",
    Resource.CPU: "CPU",
    Resource.RAM: "RAM",
    Resource.SUBNETS: "Subnets",
}
_THINGS = (Resource.GPU, Resource.PORTS, Resource.SUBNETS)


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia ledger; kaalia ledger gpu; kaalia ledger disk --json")(ledger)


def ledger(
    resource: Annotated[Resource | None, typer.Argument(help="One resource, owner by owner.")] = None,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show who has which part of the machine, and what is free."""
    document = output.connect(config, socket, dict(os.environ)).ledger()
    view = next((one for one in document.views if one.resource is resource), None)
    out = output.console()
    if as_json:
        output.print_json(document if view is None else view)
    elif view is None:
        _print_all(document, out)
    else:
        _print_one(view, document.as_of, out)


def _print_all(document: LedgerDocument, out: Console) -> None:
    rows = (
        (
            _NAMES[view.resource],
            _size(view, view.held),
            _size(view, view.free),
            _size(view, view.total),
            str(len({row.owner for row in view.rows if row.owner})),
        )
        for view in document.views
    )
    output.print_table(("Resource", ">Held", ">Free", ">Total", ">Owners"), rows, out)


def _print_one(view: LedgerView, as_of: datetime, out: Console) -> None:
    columns = {
        Resource.GPU: ("GPU", "~Model"),
        Resource.PORTS: ("Port", ">Leads to"),
        Resource.SUBNETS: ("Subnet",),
        Resource.DISK: (">Promised", ">Filled"),
    }.get(view.resource, (">Share",))
    common = ("Owner", ">Gen.", "State", ">Since")
    is_thing = view.resource in _THINGS
    rows = []
    for row in view.rows:
        own = _own(view, row)
        who = (
            row.owner or "-",
            str(row.generation or "-"),
            row.state,
            output.ago(row.since, as_of) if row.since else "-",
        )
        rows.append((*own, *who) if is_thing else (*who, *own))
    output.print_table((*columns, *common) if is_thing else (*common, *columns), rows, out)
    out.print()
    rest = "" if view.total is None else f", {_size(view, view.free)} free of {_size(view, view.total)}"
    output.print_pairs(
        [
            ("Held", f"{_size(view, view.held)}{rest}"),
            ("Kept", f"{format_bytes(view.kept)} for the machine itself" if view.kept else ""),
            ("On the disk", "" if view.unfilled is None else f"{format_bytes(view.unfilled)} hold no data now"),
        ],
        out,
    )


def _own(view: LedgerView, row: LedgerRow) -> tuple[str, ...]:
    """The columns that only this resource has."""
    match view.resource:
        case Resource.GPU:
            return row.name, row.detail
        case Resource.PORTS:
            return (row.name, row.detail or "-") if row.owner else (f"{row.amount} of {row.name}", "-")
        case Resource.SUBNETS:
            return (row.name,)
        case Resource.DISK:
            return _size(view, row.amount), "-" if row.used is None else format_bytes(row.used)
        case _:
            return (_size(view, row.amount),)


def _size(view: LedgerView, amount: int | None) -> str:
    if amount is None:
        return "-"
    match view.resource:
        case Resource.DISK | Resource.RAM:
            return format_bytes(amount)
        case Resource.CPU:
            return f"{amount / 1000:.1f} cores"
        case _:
            return str(amount)
