"""How a verification is shown: what the machine is held for, why, and what it lacks."""

from datetime import datetime

from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.contracts.verification_news import TEST_FAILED, counts
from kaalia.model.selftest import Outcome, RequirementVerdict
from kaalia.model.verification import Cause, RunNote, VerificationView

_MARKS = {Outcome.PASSED: "ok", Outcome.FAILED: "missed", Outcome.SKIPPED: "not known"}


def print_view(view: VerificationView, now: datetime, out: Console) -> None:
    """State, the newest test, what costs it, what else is lacking, with remedies; no line is cut, however narrow."""
    pairs = [("Verification", f"{view.state}, since {output.moment(view.since)}")]
    pairs.append(("Self-test", _test(view.last, now)))
    if view.ordered is not None:
        pairs.append(("Asked for", f"a self-test, {output.ago(view.ordered.at, now)}: {view.ordered.why}"))
    output.print_pairs(pairs, out)
    remedies = {lack.code: lack.remedy for lack in view.lacks}
    if view.causes:
        _head("Faults:", out)
        for one in view.causes:
            _print(one.code, one.words, (_about(one, now), _remedy(remedies.get(one.code, ""))), out)
    faults = {one.code for one in view.causes}
    if left := [lack for lack in view.lacks if lack.code not in faults]:
        _head("What is missing:" if not faults else "What else is missing:", out)
        for lack in left:
            seen = f": {lack.actual}, required {lack.required}" if lack.required else ""
            _print(lack.code, f"{lack.words}{seen}", (_remedy(lack.remedy),), out)
    if view.asides:
        _head("Noted; it costs no verification:", out)
        for one in view.asides:
            _print(one.code, one.words, (f"of {one.scope}, since {output.moment(one.since)}",), out)


def print_verdicts(verdicts: tuple[RequirementVerdict, ...], out: Console) -> None:
    """Requirements by this machine's own look, then what to do about those that are not met."""
    rows = [(one.requirement, _mark(one), one.actual, one.required) for one in verdicts]
    output.print_table(("Requirement", "", ">Actual", ">Required"), rows, out)
    for one in verdicts:
        if one.outcome is not Outcome.PASSED:
            _print(one.requirement, one.words, (_remedy(one.remedy),), out)


def _head(text: str, out: Console) -> None:
    out.print()
    out.print(text)


def _print(code: str, words: str, more: tuple[str, ...], out: Console) -> None:
    out.print(f"  {escape(words)} [dim]{escape(f'[{code}]')}[/]", soft_wrap=True)
    for line in filter(None, more):
        out.print(f"    {escape(line)}", soft_wrap=True)


def _remedy(text: str) -> str:
    return f"remedy: {text}" if text else ""


def _about(one: Cause, now: datetime) -> str:
    test = ", then a new self-test is needed" if one.needs_test and one.code != TEST_FAILED else ""
    return f"of {one.scope}, since {output.moment(one.since)}: {_phase(one, now)}{test}"


def _mark(one: RequirementVerdict) -> str:
    return "advice" if one.is_advice and one.outcome is Outcome.FAILED else _MARKS[one.outcome]


def _phase(one: Cause, now: datetime) -> str:
    if one.gone_at is not None:
        return "it is over, and must stay so for a while" if counts(one, now) else "it is over, and cost nothing"
    return "it counts" if one.counts_at <= now else f"it counts {output.ago(one.counts_at, now)} if it goes on"


def _test(note: RunNote | None, now: datetime) -> str:
    if note is None:
        return "none has been told to the marketplace"
    word = f"{note.result} {output.ago(note.ended_at, now)}"
    if note.failed:
        return f"{word}: {', '.join(note.failed)}: {note.words}"
    return f"{word}, without {', '.join(note.missing)}" if note.missing else word
