"""Units: sizes in bytes, money in Decimal US dollars, durations in seconds."""

import re
from decimal import Decimal

MIB = 1024**2
GIB = 1024**3
GB = 1000**3

HOURS_PER_MONTH = Decimal(730)
"""Monthly prices are divided by this: 365 days x 24 h / 12 months."""

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(second|minute|hour|day|week|month|year)?s?\s*$", re.IGNORECASE)
_SECONDS = {
    None: 1,
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 7 * 86400,
    "month": 30 * 86400,
    "year": 365 * 86400,
}


def parse_duration_s(text: str | float) -> float:
    """`"3 months"`, `"10 days"`, `"3600"` or a number, to seconds. Raises ValueError on anything else."""
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as '10 days', '3 months' or a number of seconds")
    unit = match[2].lower() if match[2] else None
    return float(match[1]) * _SECONDS[unit]


def format_bytes(size_bytes: float) -> str:
    """Bytes as people read them: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size_bytes) < 1024 or unit == "TiB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable")
