"""`kaalia disk`: who has which bytes of the disk; `kaalia disk orphans [--remove]`: volumes that nobody rents."""

import os
from collections import defaultdict
from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.units import format_bytes
from kaalia.wire.local import ByteOwner, DiskEntry, DiskLedger, DiskOrder

WAIT_S = 30.0
"""For a fresh measurement; then the last one is shown."""


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, help="Who has which bytes of the disk.")
    group.callback(epilog="Examples: kaalia disk; kaalia disk --json; kaalia disk orphans")(show)
    group.command("orphans", epilog="Examples: kaalia disk orphans; kaalia disk orphans --remove")(orphans)
    app.add_typer(group, name="disk")


def show(
    context: typer.Context,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show the disk: images, instances, volumes, orphans."""
    if context.invoked_subcommand is not None:
        return
    ledger = _ordered(output.connect(config, socket, dict(os.environ)), DiskOrder.MEASURE)
    if as_json:
        output.print_json(ledger)
        return
    out = output.console()
    totals: dict[ByteOwner, int] = defaultdict(int)
    for entry in ledger.entries:
        totals[entry.owner] += entry.size_bytes
    output.print_pairs(
        [
            ("Disk", f"{_bytes(ledger.free_bytes)} free of {_bytes(ledger.total_bytes)}"),
            ("Not for rent", f"{_bytes(ledger.others_bytes)} held by the system, images, orphans and other files"),
            ("Instances", "size enforced by Docker" if ledger.enforces_instance_size else "size measured and watched"),
            ("Volumes", f"{ledger.volume_backend} in {ledger.volume_folder}"),
            ("Held", ", ".join(f"{owner} {format_bytes(size)}" for owner, size in totals.items())),
            ("Measured", output.moment(ledger.measured_at)),
        ],
        out,
    )
    out.print()
    _table(ledger.entries)


def orphans(
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; without it they are only shown.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show what lies in kaalia's folder without an owner; with --remove, remove the volumes among it."""
    client = output.connect(config, socket, dict(os.environ))
    found = _orphans(_ordered(client, DiskOrder.MEASURE))
    left = _orphans(_ordered(client, DiskOrder.REMOVE_ORPHANS)) if remove and found else found
    removed = tuple(entry for entry in found if entry.name not in {one.name for one in left})
    if as_json:
        output.print_json({"orphans": left, "removed": removed})
        return
    out = output.console()
    if removed:
        out.print(f"Removed: {', '.join(entry.name for entry in removed)}")
    if left:
        _table(left)
        out.print("Nothing was removed. Remove volumes with --remove." if not remove else "These stay: see the log.")
    elif not removed:
        out.print("No orphans.")


def _ordered(client: LocalClient, kind: DiskOrder) -> DiskLedger:
    """Ask for it, and wait until the daemon has measured after that. Raises LocalError `no_disk_ledger`."""
    before = client.order_disk(kind)

    def is_awaited(ledger: DiskLedger | None) -> bool:
        return ledger is None or (before is not None and ledger.measured_at <= before.measured_at)

    with output.console(stderr=True).status("measuring the disk"):
        ledger = follow(client.measured_disk, is_awaited, WAIT_S)
    return client.disk() if ledger is None or is_awaited(ledger) else ledger


def _orphans(ledger: DiskLedger) -> tuple[DiskEntry, ...]:
    return tuple(entry for entry in ledger.entries if entry.owner is ByteOwner.ORPHAN)


def _table(entries: tuple[DiskEntry, ...]) -> None:
    rows = (
        (
            entry.owner.value,
            entry.name,
            format_bytes(entry.size_bytes),
            _bytes(entry.promised_bytes),
            output.moment(entry.used_at) if entry.used_at else "-",
        )
        for entry in entries
    )
    output.print_table(("Owner", "~Name", ">Holds", ">Promised", "Last use"), rows, output.console())


def _bytes(size: int | None) -> str:
    return "-" if size is None else format_bytes(size)
