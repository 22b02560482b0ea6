"""`kaalia status`: one screen; exit code 1 when something is wrong; a warning is shown and is no reason."""

import os

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.contracts import cordon, maintenance
from kaalia.model.verification import State
from kaalia.wire.local import DaemonStatus


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: kaalia status --json | jq .problems")(status)


def status(config: output.ConfigFile = None, socket: output.SocketFile = None, as_json: output.AsJson = False) -> None:
    """Show what the daemon is connected to, what runs, and what is wrong."""
    document = output.connect(config, socket, dict(os.environ)).status()
    if as_json:
        output.print_json(document)
    else:
        _print(document, output.console())
    raise typer.Exit(output.REFUSED if document.problems else output.OK)


def _print(document: DaemonStatus, out: Console) -> None:
    pairs = [("Daemon", _daemon(document))]
    if not document.safe_mode:
        pairs += [
            ("Marketplace", _marketplace(document)),
            ("Listing", _listing(document)),
            ("Verification", _verification(document)),
            ("GPUs", _gpus(document)),
            ("Docker", document.engine_version or "not answering"),
            ("Admission", cordon.in_short(document.cordon) if document.cordon else ""),
            ("Maintenance", "; ".join(maintenance.words(window) for window in document.maintenances)),
            ("Contracts", ", ".join(f"{n} {state}" for state, n in sorted(document.contracts.items())) or "none"),
        ]
    output.print_pairs(pairs, out)
    for problem in document.problems:
        out.print()
        output.print_problem(problem, out)
    for warning in document.warnings:
        out.print()
        output.print_warning(warning, out)


def _daemon(document: DaemonStatus) -> str:
    mode = "in safe mode" if document.safe_mode else "running"
    up = output.span(document.as_of - document.started_at)
    return f"kaalia {document.version}, {mode} for {up}, pid {document.pid}"


def _marketplace(document: DaemonStatus) -> str:
    link = document.marketplace
    if link is None:
        return "not enrolled"
    text = f"machine {link.machine_id} of {link.url}"
    if link.snapshot_at:
        text += f", revision {link.revision} of {output.ago(link.snapshot_at, document.as_of)}"
    return text + (f", {link.unsent_messages} messages unsent" if link.unsent_messages else "")


def _listing(document: DaemonStatus) -> str:
    price = document.price_gpu_per_hour
    return "not listed" if price is None else f"$ {price} per GPU and hour"


def _verification(document: DaemonStatus) -> str:
    word = document.verification
    return word if word in ("", State.VERIFIED) else f"{word}; what is missing: kaalia verification"


def _gpus(document: DaemonStatus) -> str:
    mark = " (simulated)" if document.simulated else ""
    groups = [
        f"{group.count} x {group.name}{mark}, {group.vram_mb / 1024:.0f} GiB, {group.in_use} in use"
        for group in document.gpus
    ]
    driver = f"driver {document.driver_version}" if document.driver_version else ""
    return "; ".join([*groups, driver] if driver else groups) or "none"
