"""How a verification is shown: what the machine is held for, why, and what it lacks."""

from datetime import datetime

from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.model.selftest import Outcome, RequirementVerdict
from kaalia.model.verification import RunNote, VerificationView

_MARKS = {Outcome.PASSED: "ok", Outcome.FAILED: "missed", Outcome.SKIPPED: "not known"}


def print_view(view: VerificationView, now: datetime, out: Console) -> None:
    """State, what costs it, what is lacking with remedies, the newest test and the newest changes."""
    pairs = [("Verification", f"{view.state}, since {output.moment(view.since)}")]
    pairs.append(("Self-test", _test(view.last, now)))
    if view.ordered is not None:
        pairs.append(("Asked for", f"a self-test, {output.ago(view.ordered.at, now)}: {view.ordered.why}"))
    output.print_pairs(pairs, out)
    if view.causes:
        out.print()
        rows = [
            (one.code, one.scope, output.moment(one.since), _phase(one.counts_at, one.gone_at, now), one.words)
            for one in view.causes
        ]
        output.print_table(("Fault", "Of", "Since (UTC)", "It", "~What was told"), rows, out)
    if view.lacks:
        out.print()
        out.print("What is missing:")
        for lack in view.lacks:
            seen = f": {lack.actual}, required {lack.required}" if lack.required else ""
            out.print(f"  {escape(f'{lack.words}{seen}')} [dim]{escape(f'[{lack.code}]')}[/]", soft_wrap=True)
            if lack.remedy:
                out.print(f"    [dim]remedy:[/] {escape(lack.remedy)}", soft_wrap=True)


def print_verdicts(verdicts: tuple[RequirementVerdict, ...], out: Console) -> None:
    """All requirements by this machine's own look."""
    rows = [
        (
            one.requirement,
            _mark(one),
            one.actual,
            one.required,
            one.source if one.outcome is Outcome.PASSED else one.remedy,
        )
        for one in verdicts
    ]
    output.print_table(("Requirement", "", ">Actual", ">Required", "~Source or remedy"), rows, out)


def _mark(one: RequirementVerdict) -> str:
    return "advice" if one.is_advice and one.outcome is Outcome.FAILED else _MARKS[one.outcome]


def _phase(counts_at: datetime, gone_at: datetime | None, now: datetime) -> str:
    if gone_at is not None:
        return "is over, and must stay so"
    return "counts" if counts_at <= now else f"counts {output.ago(counts_at, now)}"


def _test(note: RunNote | None, now: datetime) -> str:
    if note is None:
        return "none has been told to the marketplace"
    word = f"{note.result} {output.ago(note.ended_at, now)}"
    if note.failed:
        return f"{word}: {', '.join(note.failed)}: {note.words}"
    return f"{word}, without {', '.join(note.missing)}" if note.missing else word
