"""Which conditions mean an event of their own, by events.toml."""

import tomllib
from pathlib import Path

from kaalia.contracts.notification import Event

_FILE = Path(__file__).with_name("events.toml")


def codes() -> dict[Event, tuple[str, ...]]:
    """Reads a file. A wrong one is a fault of ours: ValueError."""
    with _FILE.open("rb") as file:
        return {Event(name): tuple(patterns) for name, patterns in tomllib.load(file).items()}
