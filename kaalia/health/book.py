"""The catalogue of all conditions: what each means, how bad it is, what to do, what ends it, and who says so.

Read from the data beside this file: `xid.toml` for the NVIDIA driver's Xids, each other file for what its name says.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kaalia.health.kernel_lines import UNLISTED, Action, catalogue
from kaalia.model.health import Severity

_FOLDER = Path(__file__).parent
_XIDS = "xid.toml"
_GPU, _OF_GPUS = "gpu_", ("gpu", "kernel")
"""Faults of GPUs, which keep theirs from being rented unless they say otherwise, and the files that they stand in."""
_XID_SOURCE = "NVIDIA, Xid Errors, https://docs.nvidia.com/deploy/xid-errors/"
_XID_WORD = re.compile(r"(?:gpu_)?(?:xid)?[ _:-]?(\d{1,5})")
"""As people write it: gpu_xid_79, xid_79, `Xid 79`, 79."""
_BLANK = re.compile(r"\{([a-z_]+)(:[^}]*|)\}")
_NUMBERS = ("value", "limit")
NEAR_MAX = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """`severity` "": no condition, but history of a GPU. `area`: the file that it stands in, such as `kernel`."""

    id: str
    area: str
    severity: str
    says: str
    remedy: str
    clears: str
    source: str
    has_fix: bool = False
    """`kaalia doctor --fix` can mend it."""
    blocks: bool = False
    """While it stands, and is critical or unknown, what it is about is not rented out anew."""

    @property
    def keeps_out(self) -> str:
        """What is not rented out anew meanwhile, in words; "" where all is."""
        if not self.blocks or self.severity not in (Severity.CRITICAL, Severity.UNKNOWN):
            return ""
        if self.id.startswith((_GPU, "canary_gpu_")):
            return "the GPU is not rented out anew, and of a fault of the driver no GPU is; what runs goes on"
        return "nothing is rented out anew; what runs goes on"


@cache
def entries() -> Mapping[str, Entry]:
    """By id. What several lines of the kernel's log tell under one id is one entry."""
    found: dict[str, Entry] = {}
    for one in (*_of_files(), *_of_xids()):
        found.setdefault(one.id, one)
    return found


def find(word: str) -> Entry | None:
    """The entry that a person means: an id, or an Xid as `xid_79` or `79`."""
    wanted = word.strip().lower()
    if (known := entries().get(wanted.replace("-", "_"))) is not None:
        return known
    match = _XID_WORD.fullmatch(wanted)
    return _xid(int(match[1])) if match else None


def near(word: str) -> list[str]:
    """Ids that look like it, the nearest first; then those that hold it."""
    wanted, known = word.strip().lower().replace("-", "_").replace(" ", "_"), list(entries())
    close = difflib.get_close_matches(wanted, known, NEAR_MAX, cutoff=0.6)
    within = [one for one in known if wanted in one] if len(wanted) >= 3 else []
    return list(dict.fromkeys((*close, *within)))[:NEAR_MAX]


def _of_files() -> Iterator[Entry]:
    for path in sorted(_FOLDER.glob("*.toml")):
        if path.name != _XIDS:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
            tables = (value for value in document.values() if isinstance(value, list))
            for entry in (one for table in tables for one in table if isinstance(one, dict) and "id" in one):
                yield Entry(
                    entry["id"],
                    path.stem,
                    entry["severity"],
                    plain(entry["says"]),
                    plain(entry["remedy"]),
                    plain(entry.get("clears", "")) or _clears(entry.get("quiet_h"), "the machine is booted anew"),
                    entry["source"],
                    entry.get("fix", False),
                    entry.get("blocks", path.stem in _OF_GPUS and entry["id"].startswith(_GPU)),
                )


def _of_xids() -> Iterator[Entry]:
    book = catalogue()
    for number in sorted(book.xids):
        yield _xid(number)
    for words, name in book.steps.items():
        if name in book.actions:
            says = f"the driver says what a GPU needs now (Xid 154): {words}"
            yield _of_action(f"gpu_recovery_{name}", says, book.actions[name])


def _xid(number: int) -> Entry:
    book = catalogue()
    name, says = book.xids.get(number, (UNLISTED, "a number that its catalogue does not list"))
    return _of_action(
        f"gpu_xid_{number}", f"the NVIDIA driver reported Xid {number} of a GPU: {says}", book.actions[name]
    )


def _of_action(entry_id: str, says: str, action: Action) -> Entry:
    clears = _clears(action.quiet_h, "the GPU is reset and its driver says so (Xid 154), or the machine is booted anew")
    severity = str(action.severity or "")
    remedy, ends = plain(action.remedy), clears if severity else ""
    return Entry(entry_id, "xid", severity, says, remedy, ends, _XID_SOURCE, blocks=True)


def plain(text: str) -> str:
    """With names where a case fills in its own: `-i UUID`, `N pages`."""
    return _BLANK.sub(
        lambda found: "N" + " %" * found[2].endswith("%") if found[1] in _NUMBERS else found[1].upper(), text
    )


def _clears(quiet_h: Any, otherwise: str) -> str:
    return otherwise if quiet_h is None else f"{quiet_h:g} hours pass without another, or the machine is booted anew"
