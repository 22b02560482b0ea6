"""The GPU programs on a true GPU, where one is at hand."""

import subprocess

import pytest

from kaalia.model.selftest import Outcome
from kaalia.selftest.work import protocol
from kaalia.selftest.work.protocol import End
from tests.selftest.work.gpu_programs import command

PROGRAMS = ("memory", "compute", "matrix", "device_bandwidth", "host_bandwidth", "peer_bandwidth", "collective", "burn")


@pytest.mark.gpu
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_gpu_that_is_well_passes(program: str) -> None:
    done = subprocess.run(command(program, {"quick": True}), capture_output=True, text=True, check=False, timeout=110)
    lines = [protocol.read(line) for line in done.stdout.splitlines()]
    end = lines[-1] if lines else None

    assert isinstance(end, End), done.stderr
    assert end.outcome is not Outcome.FAILED, end
