"""`kaalia ports`: which ports the outside reaches, why others are not reached, and what to do about it."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.contracts import reach
from kaalia.errors import HostError
from kaalia.model.reach import PortMap, PortSpan, PortState, ProbeProgress, Reason
from kaalia.model.workload import Protocol
from kaalia.wire.local import PortsDocument

STALL_S = 420.0
"""Without any progress: a prober may have no time for a batch for 300 s."""
LONG_S = 60
BAR = 30

WORDS = {
    Reason.ANSWERED: "answered with this machine's proof",
    Reason.SILENT: "nothing came through",
    Reason.PROHIBITED: "somebody on the way refuses (ICMP)",
    Reason.ANSWER_LOST: "the question came in, the answer got lost",
    Reason.REFUSED: "refused, though this machine listened",
    Reason.OTHER: "somebody else answered",
    Reason.SHIFTED: "forwarded to another port",
    Reason.CONNECTS: "takes connections",
    Reason.NOT_ASKED: "left alone",
    Reason.IN_USE: "",
}
HELD_WORDS = {Reason.REFUSED: "its program does not listen", Reason.SILENT: "no connection came through"}


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia ports; kaalia ports --probe; kaalia ports --json | jq .found.findings")(ports)


def ports(
    probe: Annotated[bool, typer.Option("--probe", help="Probe them now, and wait for the result.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show which ports the outside reaches, as a prober found out, with reasons and remedies."""
    client = output.connect(config, socket, dict(os.environ))
    document = _probed(client, quiet=as_json) if probe else client.ports()
    if as_json:
        output.print_json(document)
    else:
        _print(document, output.console())


def _probed(client: LocalClient, quiet: bool) -> PortsDocument:
    """Order a probe and follow it to its end. Raises HostError `probe_failed_now` when there is no new map."""
    before = client.order_probe()
    if not quiet and before.port_range is not None:
        _tell_duration(len(before.port_range))
    is_shown = not quiet and sys.stderr.isatty()

    def show(document: PortsDocument) -> None:
        if is_shown and document.progress is not None:
            sys.stderr.write(f"\r{_bar(document.progress)}")
            sys.stderr.flush()

    def done(document: PortsDocument) -> int:
        return document.progress.done if document.progress is not None else 0

    document = follow(client.ports, lambda one: one.progress is not None, STALL_S, progress=done, show=show)
    if is_shown:
        sys.stderr.write("\r\033[K")
    known = before.found.probed_at if before.found else None
    if document.found is not None and document.found.probed_at != known:
        return document
    failure = document.failure
    raise HostError(
        failure.code if failure else "probe_unfinished",
        failure.message if failure else "cannot show a new map: the probe has not ended",
        remedy=failure.remedy if failure else "see the log of the daemon; ask again: kaalia ports",
        evidence=failure.evidence if failure else "",
    )


def _tell_duration(ports: int) -> None:
    quick_s, slow_s = reach.duration_s(ports)
    if slow_s > LONG_S:
        quick, slow = (f"{max(1, round(each / 60))}" for each in (quick_s, slow_s))
        sys.stderr.write(f"probing {ports} ports takes {quick} to {slow} minutes, the longer the fewer answer\n")


def _bar(progress: ProbeProgress) -> str:
    """One line; what is counted are ports of either protocol."""
    share = progress.done / progress.total if progress.total else 0.0
    filled = round(BAR * share)
    return f"probing [{'#' * filled}{'.' * (BAR - filled)}] {progress.done} of {progress.total or '?'}"


def _print(document: PortsDocument, out: Console) -> None:
    if document.progress is not None:
        out.print(f"A probe is under way: {document.progress.done} of {document.progress.total or '?'}")
    if document.failure is not None:
        output.print_problem(document.failure, out)
    if document.found is None:
        reach = document.port_range
        out.print(f"Ports {reach.first}-{reach.last} were never probed." if reach else "No ports were ever probed.")
        out.print("Probe them now: kaalia ports --probe")
        return
    _print_map(document.found, out)


def _print_map(found: PortMap, out: Console) -> None:
    total = len(found.port_range)
    output.print_pairs(
        [
            ("Range", f"{found.port_range.first}-{found.port_range.last} at {found.address}"),
            ("Proven", ", ".join(f"{found.open_count(each)} of {total} {each.value.upper()}" for each in Protocol)),
            ("Hairpin", _hairpin(found.hairpin)),
            ("Probed", f"{output.moment(found.probed_at)} by {found.prober}"),
        ],
        out,
    )
    out.print()
    output.print_table(("Ports", "Protocol", "State", "~Why"), (_row(span) for span in found.spans), out)
    for problem in found.findings:
        out.print()
        output.print_warning(problem, out)


def _row(span: PortSpan) -> tuple[str, str, str, str]:
    name = str(span.first) if span.first == span.last else f"{span.first}-{span.last}"
    return name, span.protocol.value, span.state.value, _why(span)


def _why(span: PortSpan) -> str:
    words = WORDS[span.reason]
    if span.state is PortState.HELD:
        words = HELD_WORDS.get(span.reason, words)
        if span.is_open:
            words += ", proven before"
    return ": ".join(part for part in (span.detail, words) if part)


def _hairpin(works: bool | None) -> str:
    if works is None:
        return "not tried"
    return (
        "this machine reaches itself by that address" if works else "this machine cannot reach itself by that address"
    )
