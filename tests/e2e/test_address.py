"""A machine whose address changes, behind a router or of its own: the marketplace tells renters so within a minute.

Machines are network namespaces: host -- home router -- provider -- marketplace, with real programs and TLS between.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from tests.support.networks import Networks, is_possible, networks
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not is_possible(), reason="needs network namespaces: run by scripts/sandbox"),
]

MARKET = "11.9.0.4"
WITHIN_S = 60.0
CERTIFICATE = "openssl req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=market"
ASK = """
import ssl, sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.stdin.readline().strip()})
trust = ssl.create_default_context(cafile=sys.argv[2])
print(urllib.request.urlopen(request, context=trust, timeout=10).read().decode())
"""


class Scene:
    """`host` lies behind `home`, or on the provider's own network."""

    def __init__(self, nets: Networks, folder: Path, market: str = MARKET) -> None:
        self.nets, self.folder = nets, folder
        self.market, self.spelt = market, f"[{market}]" if ":" in market else market
        self.url = f"https://{self.spelt}"
        self.socket = folder / "kaalia.sock"
        self.trust = {"SSL_CERT_FILE": str(folder / "cert.pem")}
        self.key = ""

    def build(self, *, has_router: bool) -> None:
        self.nets.machine("isp", is_router=True)
        for name in ("host", "market"):
            self.nets.machine(name)
        self.nets.cable("isp", "11.9.0.1/24", "market", f"{MARKET}/24")
        self.nets.default_route("market", "11.9.0.1")
        if not has_router:
            self.nets.cable("host", "11.1.0.7/24", "isp", "11.1.0.1/24")
            self.nets.default_route("host", "11.1.0.1")
            return
        self.nets.machine("home", is_router=True)
        self.nets.cable("host", "192.168.1.20/24", "home", "192.168.1.1/24")
        self.nets.cable("home", "11.1.0.7/24", "isp", "11.1.0.1/24")
        self.nets.default_route("host", "192.168.1.1")
        self.nets.default_route("home", "11.1.0.1")
        self.nets.iptables("home", "-t nat -A POSTROUTING -o isp -j MASQUERADE")

    def start(self) -> None:
        data, config = str(self.folder / "market"), self.folder / "kaalia.yaml"
        pem = ["-keyout", str(self.folder / "key.pem"), "-out", self.trust["SSL_CERT_FILE"]]
        extension = ["-addext", f"subjectAltName=IP:{self.market}"]
        subprocess.run([*CERTIFICATE.split(), *pem, *extension], check=True, capture_output=True)
        files = ["--tls-cert", self.trust["SSL_CERT_FILE"], "--tls-key", str(self.folder / "key.pem")]
        serve = kaalia("marketplace", "serve", "--listen", f"{self.spelt}:443", "--data", data, *files)
        self.nets.start("market", *serve, log=self.folder / "market.log")
        wait_until("the marketplace to listen", lambda: ":443" in self.nets.run("market", "ss", "-ltn"), 30)
        made = self.nets.run(
            "market", *kaalia("marketplace", "user", "add", "owner", "--host", "--data", data, "--json")
        )
        self.key = json.loads(made)["api_key"]
        token = self.folder / "token"
        token.write_text(
            self.nets.run("market", *kaalia("marketplace", "enroll-token", "--user", "owner", "--data", data))
        )
        settings = {
            "state_dir": str(self.folder / "state"),
            "socket": str(self.socket),
            "docker": {"host": f"unix://{self.folder}/none.sock"},
            "ports": {"range": "40000-40007"},
            "speed": {"max_gb": 0.5},
        }
        config.write_text(json.dumps(settings))
        enrol = kaalia("enroll", self.url, "--token-file", str(token), "--config", str(config))
        self.nets.run("host", *enrol, env=self.trust)
        daemon = (sys.executable, "-m", "kaalia.daemon", "--config", str(config))
        self.nets.start("host", *daemon, log=self.folder / "daemon.log", env=self.trust)
        wait_until("the daemon to answer", self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(LocalClient(self.socket).status())
        except KaaliaError:
            return False

    def told(self) -> str | None:
        """What the owner reads of the machine at the marketplace, as renters do of its offers."""
        argv = ["ip", "netns", "exec", "market", sys.executable, "-c", ASK]
        argv += [f"{self.url}/api/v0/machines/1", self.trust["SSL_CERT_FILE"]]
        done = subprocess.run(argv, input=self.key, capture_output=True, text=True, timeout=30, check=True)
        rows = json.loads(done.stdout)
        rows = rows.get("machines", rows) if isinstance(rows, dict) else rows
        return rows[0].get("public_ipaddr") if rows else None

    def follows(self, address: str) -> float:
        """Seconds until the marketplace tells the address."""
        began_s = time.monotonic()
        try:
            wait_until(f"the marketplace to tell {address}", lambda: self.told() == address, WITHIN_S, 0.5)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the daemon: {(self.folder / 'daemon.log').read_text()[-3000:]}") from None
        return time.monotonic() - began_s


def kaalia(*args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "kaalia.cli.main", *args)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with networks() as nets:
        yield Scene(nets, tmp_path)


def test_behind_a_router_the_new_outer_address_is_told_within_a_minute(scene: Scene) -> None:
    scene.build(has_router=True)
    scene.start()
    scene.follows("11.1.0.7")
    time.sleep(12)  # the connections rest, as they do nearly always

    scene.nets.run("home", "ip", "address", "delete", "11.1.0.7/24", "dev", "isp")
    scene.nets.run("home", "ip", "address", "add", "11.1.0.8/24", "dev", "isp")
    scene.nets.default_route("home", "11.1.0.1")

    print(f"told after {scene.follows('11.1.0.8'):.1f} s")


def measured(scene: Scene) -> dict[str, Any]:
    """A speed test's result. Beside other work one of its processes may have sent all before the next began."""
    command = kaalia("speedtest", "--json", "--socket", str(scene.socket))

    def look() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(scene.nets.run("host", *command))["found"]
        except RuntimeError as error:
            if "speed_too_little" not in str(error):
                raise
            return None
        return found

    return wait_until("a speed test that tells something", look, 120)


def test_an_address_of_the_machine_itself_is_noticed_and_ports_and_speed_are_tried(scene: Scene) -> None:
    scene.build(has_router=False)
    scene.start()
    scene.follows("11.1.0.7")
    assert measured(scene)["address"] == "11.1.0.7"

    scene.nets.run("host", "ip", "address", "delete", "11.1.0.7/24", "dev", "isp")
    scene.nets.run("host", "ip", "address", "add", "11.1.0.9/24", "dev", "isp")
    scene.nets.default_route("host", "11.1.0.1")

    print(f"told after {scene.follows('11.1.0.9'):.1f} s")
    found = json.loads(scene.nets.run("host", *kaalia("ports", "--probe", "--json", "--socket", str(scene.socket))))
    assert found["found"]["address"] == "11.1.0.9"
    assert found["found"]["routed_ip"] == "11.1.0.9"
    assert measured(scene)["address"] == "11.1.0.9"
    assert "this machine has 11.1.0.9 now" in (scene.folder / "daemon.log").read_text()
