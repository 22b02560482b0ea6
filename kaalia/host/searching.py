"""Which lines a regular expression finds, by a process that can be killed: some never come to an end.

Python's own syntax, in the child `searching_child.py`.
"""

import json
import sys
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import run
from kaalia.units import MIB

CHILD = Path(__file__).with_name("searching_child.py")
SEARCH_S = 3.0
"""For 1 MiB of text a harmless expression takes some tens of milliseconds."""
_ROOM_BYTES = 2 * MIB


async def matching_lines(text: str, pattern: str) -> str:
    """The lines of `text` in which something is found. Raises HostError `filter_slow`, `filter_failed`."""
    asked = json.dumps({"text": text, "pattern": pattern}).encode()
    try:
        argv = (sys.executable, "-I", "-X", "utf8", str(CHILD))
        done = await run(argv, SEARCH_S, _ROOM_BYTES, stdin=asked)
    except HostError as error:
        if error.code != "command_timeout":
            raise
        raise _slow(pattern) from error
    if done.exit_code < 0:  # beyond its time on the processor
        raise _slow(pattern)
    if done.exit_code:
        raise HostError(
            "filter_failed",
            f"cannot use filter {pattern[:80]!r}",
            remedy="use a plain word",
            evidence=done.stderr[-500:],
        )
    return done.stdout


def _slow(pattern: str) -> HostError:
    return HostError(
        "filter_slow",
        f"cannot search by filter {pattern[:80]!r} within {SEARCH_S:g} s: it takes too long",
        remedy="leave out repeats within repeats, or search the whole text yourself",
    )
