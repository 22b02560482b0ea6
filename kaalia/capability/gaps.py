"""What could not be read, collected while a report is made: every absent field has its reason."""

from collections.abc import Callable
from typing import TypeVar

from kaalia.errors import KaaliaError
from kaalia.model.machine import Missing

T = TypeVar("T")


class Gaps:
    """Grows while the parts of a report are read."""

    def __init__(self) -> None:
        self.missing: list[Missing] = []

    def read(self, field: str, reader: Callable[[], T]) -> T | None:
        """What `reader` returns, or None with its error noted as the reason for `field`."""
        try:
            return reader()
        except KaaliaError as error:
            self.note(field, error)
            return None

    def note(self, field: str, reason: KaaliaError | str) -> None:
        self.missing.append(Missing(field, reason if isinstance(reason, str) else reason.problem.message))
