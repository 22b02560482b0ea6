"""What a command prints: so many bytes, within so many seconds, as long as somebody waits for it."""

import os
import select
import time

CUT = "[cut: the output is longer than {} bytes]"
LATE = "[not finished within {:g} s: what is above is all that was done]"
GONE = "[stopped: the instance is being started or removed]"
DEPTH_MAX = 400
"""Of folders in folders: each is held open while those in it are read."""
TOO_DEEP = "too many folders in each other"
_STDIN = 0
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LOOK_EVERY = 64
"""Entries between two looks at the clock: a system call each would cost more than the work."""


class EnoughError(Exception):
    """Nothing more is to be done."""


class Output:
    """Lines, in order; `close` gives them as one text."""

    def __init__(self, bytes_max: int, seconds: float) -> None:
        self._bytes_max = bytes_max
        self._seconds = seconds
        self._until_s = time.monotonic() + seconds
        self._lines: list[str] = []
        self._bytes = 0
        self._looks = 0
        self.has_failed = False

    def line(self, text: str) -> None:
        """Raises EnoughError when there is no more room."""
        size = len(text.encode()) + 1
        if self._bytes + size > self._bytes_max:
            self._end(CUT.format(self._bytes_max))
        self._bytes += size
        self._lines.append(text)

    def failed(self, program: str, doing: str, path: str, error: OSError | str) -> None:
        """As the tools say it: `ls: cannot access '/x': No such file or directory`."""
        self.has_failed = True
        why = error if isinstance(error, str) else os.strerror(error.errno or 0)
        self.line(f"{program}: cannot {doing} '{shown(path)}': {why}")

    def tick(self) -> None:
        """Called for every entry. Raises EnoughError when the time is over, or nobody waits any more."""
        self._looks += 1
        if self._looks % _LOOK_EVERY:
            return
        if time.monotonic() > self._until_s:
            self._end(LATE.format(self._seconds))
        if select.select([_STDIN], [], [], 0)[0]:
            self._end(GONE)

    def notice(self, text: str) -> None:
        """A last line, whatever room is left."""
        self._lines.append(text)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def _end(self, notice: str) -> None:
        self.has_failed = True
        self._lines.append(notice)
        raise EnoughError


def shown(name: str) -> str:
    """A name on one line: control characters, line breaks and wrong bytes as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else _ESCAPES.get(one, f"\\x{ord(one):02x}") for one in text)


def human(size: int) -> str:
    """As `-h` has it: 512, 1.5K, 12M; rounded up."""
    if size < 1024:
        return str(size)
    unit_bytes = 1
    for unit in "KMGTPE":
        unit_bytes *= 1024
        tenths = -(-size * 10 // unit_bytes)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        if (whole := -(-size // unit_bytes)) < 1024:
            return f"{whole}{unit}"
    return str(size)
