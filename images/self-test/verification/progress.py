"""The lines that were told so far, as the public client reads them: it prints each line once, by its exact text.

A line that is `DONE` is the end that passed, one that begins with `ERROR` the end that failed.
"""

import contextlib
import threading
import time

DONE = "DONE"
ERROR = "ERROR"


class Progress:
    """Written by the test, read by the door's threads. What is told goes to standard output too."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._told_at_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Passed or failed: nothing more is told."""
        with self._lock:
            return self._has_ended()

    def say(self, text: str) -> None:
        """One line; after the end nothing. Line ends within are blanks, and a line that is no end looks like none."""
        line = " ".join(text.split())
        with self._lock:
            if not line or self._has_ended():
                return
            if line == DONE or line.startswith(ERROR):
                line = f"- {line}"
            self._append(line)
        _print(line)

    def end(self, problem: str = "") -> None:
        """The test has passed, or failed for this reason."""
        line = f"{ERROR}: {' '.join(problem.split())}" if problem else DONE
        with self._lock:
            if self._has_ended():
                return
            self._append(line)
        _print(line)

    def body(self) -> str:
        """All lines; nothing, while nothing new is told for long and the test has not ended."""
        with self._lock:
            is_stuck = time.monotonic() - self._told_at_s > self._quiet_s and not self._has_ended()
            return "" if is_stuck else "\n".join(self._lines)

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._told_at_s = time.monotonic()

    def _has_ended(self) -> bool:
        return bool(self._lines) and (self._lines[-1] == DONE or self._lines[-1].startswith(ERROR))


def _print(line: str) -> None:
    """To the instance's log, whose disk may be full: the test goes on, and the door tells it."""
    with contextlib.suppress(OSError):
        print(line, flush=True)
