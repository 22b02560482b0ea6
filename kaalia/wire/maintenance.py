"""Maintenance windows in the public API's spelling: `show maints`, and the notice on machines and instances."""

from collections.abc import Iterable
from typing import Any

from kaalia.contracts.maintenance import Window


def rows(machine_id: int, windows: Iterable[Window]) -> list[dict[str, Any]]:
    """Times in epoch seconds, hours as a number: the client formats them without a look."""
    return [
        {
            "machine_id": machine_id,
            "start_time": window.start_at.timestamp(),
            "end_time": window.end_at.timestamp(),
            "duration_hours": (window.end_at - window.start_at).total_seconds() / 3600,
            "maintenance_category": window.category,
        }
        for window in windows
    ]
