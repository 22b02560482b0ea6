"""Which lines of the kernel's log tell a fault, by the catalogues xid.toml and kernel.toml. Pure but for reading those.

A line counts by its beginning only: what a program has in its name or its message cannot pass for the driver's word.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kaalia.model.health import Severity

_FOLDER = Path(__file__).parent
_XID = re.compile(r"NVRM: (?:GPU at )?Xid \((?:PCI:)?(?P<subject>[0-9a-fA-F:.]{7,20})\): (?P<number>\d{1,5})\b")
"""`NVRM: Xid (PCI:0000:65:00): 79, pid=..., GPU has fallen off the bus.`"""
_RECOVERY = 154
_NEXT_STEP = re.compile(r"to 0x[0-9a-f]+ \((?P<step>[A-Za-z0-9 ]{1,40})\)")
"""Of Xid 154: `GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)`."""
UNLISTED = "unlisted"


@dataclass(frozen=True, slots=True)
class Action:
    """What a fault asks of the host. `severity` None: it is history, no condition. `quiet_h`: over after so long."""

    severity: Severity | None
    remedy: str
    quiet_h: float | None = None
    hides: frozenset[str] = frozenset()
    """Actions whose faults of the same GPU are the same matter, and smaller."""
    hidden_by: tuple[str, ...] = ()
    """Conditions of any source whose symptom it is."""
    blocks: bool | None = None
    """As in `model.health.Condition`."""


@dataclass(frozen=True, slots=True)
class Told:
    """One line that tells a fault: `code` names it together with `subject`."""

    code: str
    subject: str


@dataclass(frozen=True, slots=True)
class Line:
    """An entry of kernel.toml."""

    id: str
    has: str
    pattern: re.Pattern[str]
    says: str
    source: str
    action: Action


@dataclass(frozen=True, slots=True)
class Catalogue:
    actions: Mapping[str, Action]
    xids: Mapping[int, tuple[str, str]]
    """Number -> name of its action, and what it says."""
    steps: Mapping[str, str]
    """What Xid 154 says is to be done -> name of an action; `recovered` for nothing."""
    lines: tuple[Line, ...]

    def greater(self, action: str) -> tuple[str, ...]:
        """Conditions of the same GPU of which a fault that asks for `action` is the symptom."""
        above = {name for name, rule in self.actions.items() if action in rule.hides}
        xids = [f"gpu_xid_{number}" for number, (name, _) in sorted(self.xids.items()) if name in above]
        return (*xids, *(f"gpu_recovery_{name}" for name in sorted(above)), *self.actions[action].hidden_by)

    def told(self, text: str) -> Told | None:
        """The fault that `text` tells, if any."""
        if text.startswith("NVRM:") and (match := _XID.match(text)):
            return Told(self._code(int(match["number"]), text), _address(match["subject"]))
        for line in self.lines:
            if line.has in text and (match := line.pattern.match(text)):
                return Told(line.id, _address((match.groupdict().get("subject")) or ""))
        return None

    def _code(self, number: int, text: str) -> str:
        step = _NEXT_STEP.search(text) if number == _RECOVERY else None
        if step is not None and (action := self.steps.get(step["step"])) is not None:
            return f"gpu_recovery_{action}"
        return f"gpu_xid_{number}"


@cache
def catalogue() -> Catalogue:
    """As shipped. What is wrong there raises: tests read every entry."""
    xid, kernel = (tomllib.loads((_FOLDER / name).read_text(encoding="utf-8")) for name in ("xid.toml", "kernel.toml"))
    return Catalogue(
        {name: _action(entry) for name, entry in xid["action"].items()},
        {int(number): (entry["action"], entry["says"]) for number, entry in xid["xid"].items()},
        xid["recovery"],
        tuple(_line(entry) for entry in kernel["line"]),
    )


def _action(entry: Mapping[str, Any]) -> Action:
    severity = Severity(entry["severity"]) if entry["severity"] else None
    hides, hidden_by = frozenset(entry.get("hides", ())), tuple(entry.get("hidden_by", ()))
    return Action(severity, entry["remedy"], entry.get("quiet_h"), hides, hidden_by, entry.get("blocks"))


def _line(entry: Mapping[str, Any]) -> Line:
    pattern = re.compile(entry["line"])
    return Line(entry["id"], entry["has"], pattern, entry["says"], entry["source"], _action(entry))


def _address(subject: str) -> str:
    """A PCI address as the bus has it, without its function: a fault is the card's. Other subjects are as they are."""
    match = re.fullmatch(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-7])?", subject.lower())
    return f"{(match[1] or '0000')[-4:]}:{match[2]}:{match[3]}" if match else subject
