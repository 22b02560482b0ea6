"""How a work program talks: JSON lines on stdout, as protocol.py describes them. Standard library only.

def work(arguments: dict[str, Any]) -> str: ...     the words of one that passed; raises FailedError or SkippedError

if __name__ == "__main__":
    talk.run(work)
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

PARENT_EVERY_S = 0.5


class FailedError(Exception):
    """The step failed: `words` begin with "cannot" and name what and where."""

    def __init__(self, code: str, words: str, *, remedy: str) -> None:
        super().__init__(words)
        self.code, self.words, self.remedy = code, words, remedy


class SkippedError(Exception):
    """There is nothing to prove here; the text tells why."""


class _Mouth:
    """The true stdout. What a library prints goes to stderr, so that it mixes with nothing."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)

    def say(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False) + "\n"
        try:
            os.write(self._out, text.encode())
        except BrokenPipeError:
            os._exit(1)  # nobody listens any more


_mouths: list[_Mouth] = []


def progress(share: float, words: str = "") -> None:
    _say({"progress": round(min(max(share, 0.0), 1.0), 4), "words": words})


def figure(name: str, value: float, unit: str, gpu_uuid: str | None = None, spread: float | None = None) -> None:
    """`spread`: standard deviation of the rounds, as a share of their mean."""
    said = {"name": name, "value": value, "unit": unit, "gpu_uuid": gpu_uuid, "spread": spread}
    _say({"figure": said})


def sample(at_s: float, gpu_uuid: str, **readings: float) -> None:
    """`readings`: temperature_c, clock_mhz, power_w, throughput; what is not known is left out."""
    _say({"sample": {"at_s": round(at_s, 3), "gpu_uuid": gpu_uuid, **readings}})


def run(work: Callable[[dict[str, Any]], str]) -> NoReturn:
    """Do the work with the argument of the command line, and end the process with an end line.

    What nobody expected is left to Python: it goes to stderr, without an end line.
    """
    _mouths.append(_Mouth())
    arguments = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _end("passed", "", work(arguments), "")
    except SkippedError as why:
        _end("skipped", "", str(why), "")
    except FailedError as failed:
        _end("failed", failed.code, failed.words, failed.remedy)


def _end(outcome: str, code: str, words: str, remedy: str) -> NoReturn:
    _say({"end": outcome, "code": code, "words": words, "remedy": remedy})
    sys.stdout.flush()
    os._exit(0)  # not by the libraries' own ends, which may hang on a GPU that does not answer


def _leave_with_parent(parent: int) -> None:
    """A program whose caller died would hold the GPUs for nobody, also while a call of the driver hangs."""
    while os.getppid() == parent:
        time.sleep(PARENT_EVERY_S)
    os._exit(1)


def _say(line: dict[str, Any]) -> None:
    _mouths[0].say(line)
