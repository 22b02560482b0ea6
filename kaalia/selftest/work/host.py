"""What the work programs of the host do when nobody says otherwise: host.toml, beside this file."""

import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("host.toml")


def settings(program: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Of one program: what it is told, else what a quick test takes if it is one, else what a full one does."""
    told = tomllib.loads(FILE.read_text(encoding="utf-8"))[program]
    quick = told.pop("quick", {}) if arguments.get("quick") else {}
    told.pop("source", None)
    return {**told, **quick, **{key: value for key, value in arguments.items() if value is not None}}
