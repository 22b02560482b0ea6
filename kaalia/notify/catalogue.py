"""Which conditions mean an event of their own, by events.toml."""

import tomllib
from datetime import timedelta
from pathlib import Path

from kaalia.contracts.notification import DELAY, Event, Watch

_FILE = Path(__file__).with_name("events.toml")


NEVER = "never"


def read(delay: timedelta = DELAY, *, with_warnings: bool = False) -> Watch:
    """Reads a file. A wrong one is a fault of ours: ValueError."""
    with _FILE.open("rb") as file:
        known = tomllib.load(file)
    never = tuple(known.pop(NEVER))
    codes = {Event(name): tuple(patterns) for name, patterns in known.items()}
    return Watch(codes, never, delay, with_warnings)
