"""Which log lines a renter's filter keeps, in bounded time whatever the filter is.

Python's regular expressions can take for ever and cannot be stopped, so only a part of their syntax is used here:
literals, classes, dots, anchors, escapes, `|` at the top, at most two `*` or `+`, at most three `?`. Each line is
looked at up to a length that keeps the worst case at some milliseconds. A filter beyond that (`is_simple`) is for a
process that can be killed; where there is none it is a plain substring.
"""

import re
from collections.abc import Callable

from kaalia.contracts.log_filter import has_wide_set

PATTERN_MAX_CHARACTERS = 256
BUDGET_S = 1.0
"""For one text; the rest of it is left out, and the result says so."""
CUT = "[the filter took too long: the lines after this were not searched]"

_REPEATS_MAX = 2
_OPTIONALS_MAX = 3
_LINE_MAX_CHARACTERS = (8192, 2048, 256)
"""By number of repeats: the cost of a search grows with the length to the power of repeats + 1."""
_TOKEN = re.compile(r"\\[^0-9]|\[\^?\]?[^\]]*\]|[^\\\[]", re.DOTALL)
_NESTED = re.compile(r"\[|--|&&|~~|\|\|")
"""Reserved by Python for sets of sets."""
_REFUSED = frozenset("(){}")

Keeps = Callable[[str], bool]


def compile_filter(pattern: str) -> Keeps:
    """A test for one line. Upper and lower case differ; a leading `(?i)` makes them equal."""
    flags = re.IGNORECASE if pattern.startswith("(?i)") else re.NOFLAG
    bare = _without_padding(pattern.removeprefix("(?i)"))
    repeats = _repeats(bare)
    if repeats is None:
        return lambda line: pattern in line
    try:
        found = re.compile(bare, flags).search
    except re.error:
        return lambda line: pattern in line
    longest = _LINE_MAX_CHARACTERS[repeats]
    return lambda line: found(line[:longest]) is not None


def is_simple(pattern: str) -> bool:
    """It is used as the regular expression that it is."""
    bare = _without_padding(pattern.removeprefix("(?i)"))
    if has_wide_set(bare):
        return False
    try:
        return _repeats(bare) is not None and re.compile(bare) is not None
    except re.error:
        return False


def apply_filter(text: str, pattern: str, monotonic_s: Callable[[], float]) -> str:
    """The lines of `text` that the filter keeps, looked at for at most BUDGET_S by the given clock."""
    keeps = compile_filter(pattern)
    until_s = monotonic_s() + BUDGET_S
    kept = []
    for line in text.splitlines():
        if monotonic_s() > until_s:
            kept.append(CUT)
            break
        if keeps(line):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _without_padding(pattern: str) -> str:
    """A search does not need `.*` at the ends, and people write it."""
    if "|" in pattern:
        return pattern
    bare = pattern.removeprefix(".*")
    return bare[:-2] if bare.endswith(".*") and not bare.endswith("\\.*") else bare


def _repeats(pattern: str) -> int | None:
    """How many `*` and `+` there are; None for a filter that is no simple pattern."""
    if len(pattern) > PATTERN_MAX_CHARACTERS:
        return None
    tokens, place = [], 0
    while place < len(pattern):
        match = _TOKEN.match(pattern, place)
        if match is None:
            return None
        tokens.append(match[0])
        place = match.end()
    repeats = tokens.count("*") + tokens.count("+")
    if any(token.startswith("[") and _NESTED.search(token, 1) for token in tokens):
        return None
    if repeats > _REPEATS_MAX or tokens.count("?") > _OPTIONALS_MAX or _REFUSED & set(tokens):
        return None
    return repeats
