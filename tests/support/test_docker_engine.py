"""The private engine leaves nothing behind: that is what lets the demo run on anybody's machine."""

import subprocess
from pathlib import Path

import pytest

from tests.support.docker_engine import PrivateDocker
from tests.support.images import import_demo

pytestmark = pytest.mark.docker


def traces(root: Path) -> list[str]:
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    loops = subprocess.run(["losetup", "-a"], check=True, capture_output=True, text=True).stdout
    processes = subprocess.run(["ps", "axww", "-o", "args"], check=True, capture_output=True, text=True).stdout
    mounts = Path("/proc/mounts").read_text()
    found = [line for text in (loops, processes, mounts) for line in text.splitlines() if str(root) in line]
    return found + [line for line in links.splitlines() if "kdtest0" in line or "br-" in line]


@pytest.mark.parametrize("dies_first", [False, True])
def test_stop_leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory, dies_first: bool) -> None:
    # A short name: paths of sockets have at most 107 characters.
    engine = PrivateDocker(tmp_path_factory.mktemp("d") / "e", bridge="kdtest0")
    engine.start()
    import_demo(engine)
    body = {"Image": "kaalia/demo", "Cmd": ["sleep", "1000"], "HostConfig": {"PortBindings": {"80/tcp": [{}]}}}
    engine.request("POST", "/containers/create?name=one", body)
    engine.request("POST", "/containers/one/start")
    assert any("containerd-shim" in line for line in traces(engine.root))

    if dies_first:
        engine.kill()
    engine.stop()
    engine.stop()

    assert traces(engine.root) == []
    assert not engine.root.exists()
