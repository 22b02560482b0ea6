"""A simulated machine whose GPUs compute."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.selftest.work import gpu_programs
from tests.selftest.work.gpu_programs import Said
from tests.support.fake_nvidia.build import build, build_cuda
from tests.support.fake_nvidia.profiles import write

Run = Callable[..., Said]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cuda(build(tmp_path_factory.mktemp("cuda")))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


@pytest.fixture
def run(library: Path, profile: Path) -> Run:
    """run(program, profile's text, argument=...)"""

    def go(program: str, text: str, **arguments: object) -> Said:
        write(profile, text)
        return gpu_programs.run(program, library, profile, **arguments)

    return go
