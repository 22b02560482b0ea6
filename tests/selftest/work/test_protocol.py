"""What work programs say is read, and what they do not say is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.model.selftest import Figure, Outcome, Sample
from kaalia.selftest.work import protocol
from kaalia.selftest.work.protocol import End, Progress

REPOSITORY = Path(protocol.__file__).parents[3]
PROGRAM = """
import sys
sys.path.append({repository!r})
from kaalia.selftest.work import talk

def work(arguments):
    print("a library prints")
    talk.progress(0.5, "half")
    talk.figure("speed", 1.5, "GB/s", "GPU-a", 0.1)
    talk.sample(2.0, "GPU-a", throughput=3.0)
    if arguments.get("how") == "failed":
        raise talk.FailedError("slow", "cannot go faster", remedy="push")
    if arguments.get("how") == "skipped":
        raise talk.SkippedError("nothing to do")
    if arguments.get("how") == "broken":
        raise KeyError("no one expected that")
    return "well done"

talk.run(work)
"""


def say(tmp_path: Path, **arguments: object) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(repository=str(REPOSITORY)))
    argv = [sys.executable, "-I", "-S", str(program), json.dumps(arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("passed", End(Outcome.PASSED, "", "well done", "")),
        ("failed", End(Outcome.FAILED, "slow", "cannot go faster", "push")),
        ("skipped", End(Outcome.SKIPPED, "", "nothing to do", "")),
    ],
)
def test_what_a_program_says_is_read(tmp_path: Path, how: str, end: End) -> None:
    done = say(tmp_path, how=how)

    assert done.returncode == 0
    assert [protocol.read(line) for line in done.stdout.splitlines()] == [
        Progress(0.5, "half"),
        Figure("speed", 1.5, "GB/s", "GPU-a", 0.1),
        Sample(2.0, "GPU-a", throughput=3.0),
        end,
    ]
    assert "a library prints" in done.stderr


def test_a_program_that_breaks_has_no_end_line(tmp_path: Path) -> None:
    done = say(tmp_path, how="broken")

    assert done.returncode != 0
    assert '"end"' not in done.stdout
    assert "no one expected that" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        *("", "hello", "[]", '"text"', "3", '{"end": "perhaps"}', '{"progress": "half"}', '{"progress": NaN}'),
        *('{"figure": {"name": "speed"}}', '{"figure": 3}', '{"sample": {"at_s": 1}}', '{"progress": Infinity}'),
    ],
)
def test_garbage_is_refused(line: str) -> None:
    with pytest.raises(HostError) as refused:
        protocol.read(line)

    assert refused.value.problem.code == "work_garbled"


def test_a_line_of_a_newer_program_is_passed_over() -> None:
    assert protocol.read('{"colour": "blue"}') is None
