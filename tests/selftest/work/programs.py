"""Work programs as they run: a child of its own, and each line that it wrote, by the daemon's own reader."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kaalia.selftest.work
from kaalia.model.selftest import Figure, Sample
from kaalia.selftest.work import protocol
from kaalia.selftest.work.protocol import End, Progress

FOLDER = Path(kaalia.selftest.work.__file__).parent
TIMEOUT_S = 100


@dataclass
class Said:
    """`end` of one that died is missing; `stderr` says why."""

    ends: list[End] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    stderr: str = ""

    @property
    def end(self) -> End:
        assert len(self.ends) == 1, self.stderr
        return self.ends[0]


def argv(program: str, arguments: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-I", "-S", str(FOLDER / f"{program}.py"), json.dumps(dict(arguments))]


def run(program: str, env: Mapping[str, str] | None = None, **arguments: Any) -> Said:
    """To its end."""
    done = subprocess.run(
        argv(program, arguments), env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    said = understood(done.stdout)
    said.stderr = done.stderr
    assert done.returncode == 0 or not said.ends, done.stderr
    return said


def understood(text: str) -> Said:
    said = Said()
    for line in text.splitlines():
        match protocol.read(line):
            case End() as end:
                said.ends.append(end)
            case Progress() as progress:
                said.progress.append(progress)
            case Sample() as sample:
                said.samples.append(sample)
            case Figure() as figure:
                said.figures[figure.name] = figure
    return said
