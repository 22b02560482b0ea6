"""`kaalia reliability`: how reliable the machine is held to be, what each outage costs, and what another one would."""

import os
import re
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.contracts import reliability as rules
from kaalia.errors import ConfigError
from kaalia.wire.availability import LedgerLine, ReliabilityDocument

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_FULL = {"second": "s", "minute": "m", "hour": "h", "day": "d"}

What = Annotated[
    str, typer.Option("--if", metavar="TIME", help="What an outage of so long from now on would cost: 30m, 2h, 1h30m.")
]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia reliability; kaalia reliability --if 30m; kaalia reliability --json")(
        reliability
    )


def reliability(
    what: What = "",
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show how reliable this machine is held to be, what every outage costs, and when it is forgotten."""
    length = _length(what) if what else None
    document = output.connect(config, socket, dict(os.environ)).reliability()
    out = output.console()
    if length is not None:
        _say_what_if(document, length, out, as_json)
    elif as_json:
        output.print_json(document)
    else:
        _print(document, out)


def _length(text: str) -> timedelta:
    """Raises ConfigError `duration_invalid`."""
    parts = _PART.findall(text.lower())
    is_whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", text.lower())
    units = [_SECONDS.get(_FULL.get(unit.removesuffix("s"), unit)) for _, unit in parts]
    length_s = sum(float(number) * (unit or 0) for (number, _), unit in zip(parts, units, strict=True))
    greatest_s = rules.WINDOW.total_seconds()
    if not parts or not is_whole or None in units or not 0 < length_s <= greatest_s:
        raise ConfigError(
            "duration_invalid",
            f"cannot reckon with --if {text[:40]!r}: it is no time above 0 and up to {greatest_s / 86400:.0f} days",
            remedy="give number and unit, such as 30m, 2h, 1h30m or 1d",
        )
    return timedelta(seconds=length_s)


def _say_what_if(document: ReliabilityDocument, length: timedelta, out: Console, as_json: bool) -> None:
    if document.record is None:
        raise ConfigError(
            "reliability_unknown",
            "cannot reckon what an outage would cost: the marketplace has not told what it knows of this machine",
            remedy="enrol it, and wait for its first post; a marketplace of an older version never tells",
        )
    costs = {
        (rented, planned): rules.what_if(document.record, document.as_of, length, is_rented=rented, is_planned=planned)
        for rented in (True, False)
        for planned in (False, True)
    }
    now, other = document.is_rented, not document.is_rented
    if as_json:
        output.print_json(
            {
                "length_s": length.total_seconds(),
                "is_rented": now,
                "cost": costs[now, False],
                "cost_planned": costs[now, True],
                "cost_idle": costs[False, False],
                "cost_rented": costs[True, False],
                "forgotten_at": document.as_of + length + rules.WINDOW,
            }
        )
        return
    words, notice_h = _span(length), rules.ANNOUNCED_BEFORE.total_seconds() / 3600
    out.print(f"{words} now costs {costs[now, False]:.4f}.")
    out.print(f"In a window announced {notice_h:.0f} h before: {costs[now, True]:.4f} (vastai schedule maint).")
    out.print(f"While the machine is {'idle' if now else 'rented'}: {costs[other, False]:.4f}.")
    if not costs[now, False]:
        out.print(f"Up to {document.record.offline_after_s:.0f} s nobody counts.")
    else:
        out.print(f"Forgotten {output.moment(document.as_of + length + rules.WINDOW)}.")


def _print(document: ReliabilityDocument, out: Console) -> None:
    told = "-"
    if document.told is not None and document.told_at is not None:
        told = f"{document.told:.4f}, {output.ago(document.told_at, document.as_of)}"
    here = "not known: the marketplace has told nothing yet"
    if document.reliability is not None:
        here = f"{document.reliability:.4f}"
    watched = "" if document.record is None else _watched(document.record.watched_from, document.as_of)
    output.print_pairs([("Reliability", here), ("Marketplace says", told), ("Watched", watched)], out)
    out.print()
    if not document.ledger:
        out.print("No outage is known.")
        return
    rows = [_row(line, document.as_of) for line in reversed(document.ledger)]
    output.print_table(("Begin (UTC)", ">Lasted", "Cause", "Rented", ">Cost", "Forgotten", "~What was seen"), rows, out)


def _row(told: LedgerLine, as_of: datetime) -> tuple[str, ...]:
    outage, silence = told.line.outage, told.line.silence
    begin_at = told.line.begin_at
    end_at = outage.end_at if outage else silence.end_at if silence else None
    is_rented = silence.is_rented if silence else outage is not None and outage.is_rented
    detail = outage.detail if outage else "the marketplace heard nothing"
    return (
        f"{begin_at:%Y-%m-%d %H:%M:%S}",
        f"{_span((end_at or as_of) - begin_at)}{'' if end_at else ', goes on'}",
        str(outage.cause) if outage else "unknown",
        "yes" if is_rented else "no",
        "-" if told.cost is None else f"{told.cost:.4f}",
        "" if told.recovers_at is None else f"{told.recovers_at:%Y-%m-%d}",
        detail,
    )


def _watched(watched_from: datetime, as_of: datetime) -> str:
    length = max(timedelta(0), as_of - watched_from)
    if length >= rules.WINDOW:
        return f"the last {rules.WINDOW.days} days count"
    return f"for {output.span(length)}; at first a new machine is given the benefit of the doubt"


def _span(length: timedelta) -> str:
    """To the part that matters: `40 s`, `30 min`, `2 h 05 min`, `3 d 4 h`."""
    seconds = max(0, round(length.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
