"""A daemon as a process sets what the policy wants, and the next one without a policy puts it back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.test_run import Home
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import machine, write
from tests.support.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def test_a_limit_is_set_and_put_back_after_a_crash(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "profile"
    write(profile, machine("1xRTX_4090"))
    for name, value in environment(build(tmp_path / "driver"), profile).items():
        monkeypatch.setenv(name, value)

    def limit() -> str:
        lines = [line.split() for line in profile.read_text().splitlines()]
        return next(line[3] for line in lines if line[:3] == ["gpu", "0", "power_limit_mw"])

    before = limit()
    home.configure(power={"enabled": True, "idle": {"power_w": 200}})
    first = home.start()
    wait_until("the limit to be set", lambda: limit() == "200000", 100)
    first.kill()
    first.wait()

    home.configure()
    home.start()
    wait_until("the limit to be put back", lambda: limit() == before, 100)
