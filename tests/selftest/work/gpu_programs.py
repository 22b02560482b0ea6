"""Runs work programs on the simulated driver, as the self-test does, and reads what they say."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kaalia.model.selftest import Figure, Sample
from kaalia.selftest.work import protocol
from kaalia.selftest.work.protocol import End, Line
from tests.support.fake_nvidia.build import environment

FOLDER = Path(protocol.__file__).parent


@dataclass(frozen=True, slots=True)
class Said:
    """All lines of a program that ended."""

    lines: tuple[Line, ...]
    stderr: str

    @property
    def end(self) -> End:
        last = self.lines[-1]
        assert isinstance(last, End), self
        return last

    def figures(self, name: str) -> dict[str | None, float]:
        """By GPU."""
        return {one.gpu_uuid: one.value for one in self.lines if isinstance(one, Figure) and one.name == name}

    def samples(self) -> list[Sample]:
        return [one for one in self.lines if isinstance(one, Sample)]


def command(program: str, arguments: dict[str, object]) -> list[str]:
    return [sys.executable, "-I", "-S", str(FOLDER / f"{program}.py"), json.dumps(arguments)]


def run(program: str, library: Path, profile: Path, **arguments: object) -> Said:
    environ = os.environ | environment(library, profile)
    done = subprocess.run(
        command(program, arguments), env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    lines = [protocol.read(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    return Said(tuple(line for line in lines if line is not None), done.stderr)
