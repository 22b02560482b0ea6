"""The way out of cells: what it takes for the machine's own, and as whom it runs."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kaalia.contracts.networks import Surroundings
from kaalia.host import routing
from kaalia.transfer import outlet, plan
from tests.support import own_network

needs_sandbox = pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: a network of its own")
AROUND = Surroundings.of(("192.0.2.0/24", "10.0.0.0/8", "203.0.113.9/32", "fd77::/16"), ("10.214.0.0/16",), ())


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "own", "reachable"),
    [
        ("192.0.2.2", True, False),
        ("192.0.2.3", True, False),  # a second one, whose packets leave by the first
        ("::ffff:192.0.2.3", True, False),
        ("192.0.2.4", False, True),
        ("192.0.2.255", True, False),
        ("203.0.113.9", True, True),
        ("10.214.3.1", True, False),
        ("10.214.3.2", False, False),
        ("10.1.2.3", False, True),
        ("127.0.0.1", True, False),
        ("fd77::2", True, False),
        ("fd77::3", False, True),
        ("fe80::1%lo", None, False),
        ("8.8.8.8", False, True),
    ],
)
def test_the_machine_itself_is_known_by_every_address(text: str, own: bool | None, reachable: bool) -> None:
    with own_network.own_network():
        ip("link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        for one in ("192.0.2.2/24", "192.0.2.3/24", "203.0.113.9/32", "10.214.3.1/28"):
            ip("address", "add", one, "brd", "+", "dev", "lan0")
        ip("address", "add", "fd77::2/64", "dev", "lan0", "nodad")
        for one in ("lan0", "lan1"):
            ip("link", "set", one, "up")
        if own is not None:
            address = ipaddress.ip_address(text.removeprefix("::ffff:"))
            assert routing.is_own(address) is own
        assert outlet._may_be_reached(text, 9000, AROUND) is reachable


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whom it must not stay")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("missing", ["-setuid", "-setgid", "-setuid,-setgid"])
def test_it_does_not_run_as_root(missing: str) -> None:
    """As below a unit whose sandbox leaves these rights out."""
    running, line = started("setpriv", f"--bounding-set={missing}")
    _, told = running.communicate(timeout=20)
    line.close()
    assert running.returncode == plan.OUTLET_UNFIT
    assert "cannot be an outlet as nobody" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as which it begins")
def test_it_runs_as_nobody_until_its_line_is_cut() -> None:
    running, line = started()
    found: dict[str, list[str]] = {}
    ends = time.monotonic() + 20
    while found.get("Uid") != ["65534"] * 4 or found["CapPrm"] != ["0" * 16]:
        assert time.monotonic() < ends, found
        time.sleep(0.05)
        rows = Path(f"/proc/{running.pid}/status").read_text().splitlines()
        found = {name: rest.split() for name, _, rest in (row.partition(":") for row in rows)}
    line.close()
    running.communicate(timeout=20)
    assert running.returncode == 0
    assert found["Gid"] == ["65534"] * 4
    assert found["Groups"] == []
    assert {int(found[name][0], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}


def started(*before: str) -> tuple[subprocess.Popen[str], socket.socket]:
    """With a listener that it was handed."""
    ours, theirs = socket.socketpair()
    ours.settimeout(3)
    with theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(ours, [b"."], [listener.fileno()])
        argv = [*before, sys.executable, "-P", "-m", plan.OUTLET, *plan.outlet_words((), (), ())]
        running = subprocess.Popen(argv, stdin=theirs.fileno(), stderr=subprocess.PIPE, text=True)
    return running, ours
