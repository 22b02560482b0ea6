"""A simulated GPU machine for the tests of this unit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kaalia.host.nvml import NvmlProbe
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import write

MakeProbe = Callable[[str], NvmlProbe]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the simulated driver, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


@pytest.fixture
def simulated(nvml_library: Path, profile: Path) -> MakeProbe:
    """Makes a probe that sees the machine of a profile text; a test changes the machine by writing `profile` again."""

    def make(text: str) -> NvmlProbe:
        write(profile, text)
        return NvmlProbe(env=environment(nvml_library, profile), deadline_s=60)

    return make
