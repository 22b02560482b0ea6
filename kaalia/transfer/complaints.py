"""What a program complained of while it copied: its first words, which name the cause, and its last."""

FIRST, LAST = 3, 5
LINE_MAX_CHARS = 1000


class Complaints:
    """Bounded, however much is said. What comes in between is left out: it repeats, or follows from the first."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: list[str] = []

    def add(self, line: str) -> None:
        line = line[:LINE_MAX_CHARS]
        if len(self._first) < FIRST:
            self._first.append(line)
        else:
            self._last = [*self._last, line][-LAST:]

    @property
    def text(self) -> str:
        return "\n".join((*self._first, *self._last))
