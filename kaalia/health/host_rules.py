"""host.toml, read: what each finding asks of the host, the thresholds, and how findings become conditions."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kaalia.errors import Problem
from kaalia.health.host_facts import Finding, HostFacts, Limits, Unread
from kaalia.model.health import Condition, Severity

_FILE = Path(__file__).with_name("host.toml")
UNREAD = "host_unread"


@dataclass(frozen=True, slots=True)
class Rule:
    """`turns`: so many looks in a row must find it before it is told."""

    severity: Severity
    remedy: str
    clears: str
    turns: int
    blocks: bool | None = None
    """As in `model.health.Condition`."""


@dataclass(frozen=True, slots=True)
class Book:
    rules: Mapping[str, Rule]
    limits: Limits


@cache
def rules() -> Book:
    """As shipped. What is wrong there raises: tests read every entry."""
    document = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    found = {
        one["id"]: Rule(Severity(one["severity"]), one["remedy"], one["clears"], one.get("turns", 1), one.get("blocks"))
        for one in document["condition"]
    }
    limits = Limits(
        **document["limits"],
        runtimes=tuple(document["runtimes"]["known"]),
        packages=tuple(document["packages"]["watched"]),
        managers=document["managers"],
    )
    return Book(found, limits)


def condition(finding: Finding, rule: Rule) -> Condition:
    """What is told of a finding."""
    remedy, clears = (_filled(text, finding.words) for text in (rule.remedy, rule.clears))
    problem = Problem(finding.id, finding.message, remedy, finding.evidence)
    severity, scope, hidden_by = finding.severity or rule.severity, finding.scope, finding.hidden_by
    return Condition(problem, severity, clears, scope, hidden_by=hidden_by, blocks=rule.blocks)


def unread(facts: HostFacts, needed: Iterable[str]) -> Finding | None:
    """All that could not be looked at, as one finding."""
    reasons = {name: fact.reason for name in needed if isinstance(fact := getattr(facts, name), Unread)}
    if not reasons:
        return None
    names = ", ".join(sorted(reasons))
    evidence = "; ".join(f"{name}: {reasons[name]}" for name in sorted(reasons))
    return Finding(UNREAD, f"cannot look at everything of this machine: {names}", evidence)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", value)
    return text
