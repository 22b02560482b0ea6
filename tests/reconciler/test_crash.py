"""The crash points kill for real when asked to, and only then."""

import signal
import subprocess
import sys

import pytest

from kaalia.reconciler import crash

VISIT_TWICE = (
    "from kaalia.reconciler import crash; crash.at('create.done'); print('once', flush=True); crash.at('create.done')"
)


def test_points_are_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(crash.VARIABLE, raising=False)

    for point in crash.POINTS:
        crash.at(point)


@pytest.mark.parametrize(
    ("wanted", "said", "ending"),
    [
        ("create.done", "", -signal.SIGKILL),
        ("create.done:2", "once\n", -signal.SIGKILL),
        ("create.done:3", "once\n", 0),
        ("stop.done", "once\n", 0),
    ],
)
def test_the_nth_visit_of_the_named_point_kills(wanted: str, said: str, ending: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", VISIT_TWICE], env={crash.VARIABLE: wanted}, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (ending, said)
