"""The prober finds the ports that a firewall drops, exactly these, and names what stands in the way otherwise.

Machines are network namespaces: a host behind a home router, its provider, and a prober on the internet. Daemon,
prober and command are the real programs. Each round drops three ports, one by TCP only, one by UDP only, one by both.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from kaalia.contracts.reach import in_short
from kaalia.errors import KaaliaError
from tests.proofs.report import Report, Say
from tests.support.networks import TIMEOUT_S, Networks, networks
from tests.support.waiting import wait_until

FIRST, LAST = 40000, 40023
RANGE = range(FIRST, LAST + 1)
FORWARDED = f"{FIRST}:{LAST}"
HOST, GATEWAY, HOME, PROBER = "192.168.1.20", "192.168.1.1", "203.0.113.7", "198.51.100.4"
URL = f"http://{PROBER}:8090"
ROUNDS = 3

Place = tuple[int, str]


class Scene:
    """A host behind a router, a prober on the far side, and the daemon's answers."""

    def __init__(self, nets: Networks, folder: Path, report: Report, ports: range = RANGE) -> None:
        self.nets, self.folder, self.report, self.ports = nets, folder, report, ports
        self.socket = folder / "kaalia.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        """host -- home -- isp -- prober. Everybody reaches outwards; the home router translates."""
        for name in ("home", "isp"):
            self.nets.machine(name, is_router=True)
        for name in ("host", "prober"):
            self.nets.machine(name)
        self.nets.cable("host", f"{HOST}/24", "home", f"{GATEWAY}/24")
        self.nets.cable("home", f"{HOME}/24", "isp", "203.0.113.1/24")
        self.nets.cable("isp", "198.51.100.1/24", "prober", f"{PROBER}/24")
        self.nets.default_route("host", GATEWAY)
        self.nets.default_route("home", "203.0.113.1")
        self.nets.default_route("prober", "198.51.100.1")
        self.nets.iptables("home", "-t nat -A POSTROUTING -o isp -j MASQUERADE")
        self.nets.start(
            "prober", *python("kaalia.cli.main", "probe", "serve", "--listen", f"{PROBER}:8090"), log=self.log("prober")
        )

    def forward(self, protocols: tuple[str, ...] = ("tcp", "udp")) -> None:
        """The line that `kaalia ports` tells the owner to add."""
        for protocol in protocols:
            matched = f"-i isp -p {protocol} --dport {self.ports[0]}:{self.ports[-1]}"
            self.nets.iptables("home", f"-t nat -A PREROUTING {matched} -j DNAT --to-destination {HOST}")

    def start_daemon(self, **probe: Any) -> None:
        config = {
            "state_dir": str(self.folder / "state"),
            "socket": str(self.socket),
            "docker": {"host": f"unix://{self.folder}/none.sock"},
            "ports": {"range": f"{self.ports[0]}-{self.ports[-1]}"},
            "probe": {"url": URL, **probe},
        }
        file = self.folder / "kaalia.yaml"
        file.write_text(json.dumps(config))
        if self.daemon is not None:
            self.nets.stop(self.daemon)
        self.daemon = self.nets.start("host", *python("kaalia.daemon", "--config", str(file)), log=self.log("daemon"))
        wait_until("the daemon to answer", self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(LocalClient(self.socket).status())
        except KaaliaError:
            return False

    def probe(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """What `kaalia ports --probe --json` prints."""
        began = time.monotonic()
        command = python("kaalia.cli.main", "ports", "--probe", "--json", "--socket", str(self.socket))
        document: dict[str, Any] = json.loads(self.nets.run("host", *command, timeout_s=timeout_s))
        self.report.counts["probes"] += 1
        self.report.counts["ports_tried"] += 2 * len(self.ports)
        self.report.worst("slowest_probe_s", time.monotonic() - began)
        return dict(document["found"])

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def python(module: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *args)


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` firewalls (default 3), then each of the other scenes once."""
    report, chance = Report(say), random.Random(seed)
    with scene(report) as made:
        made.forward()
        made.start_daemon()
        for number in range(rounds or ROUNDS):
            dropped_ports(made, chance, number)
        for play in (
            input_dropped,
            second_firewall,
            killed,
            other_program,
            shifted_and_stolen,
            hairpin,
            udp_forgotten,
            liar,
        ):
            play(made)
    for alone in (nothing_forwarded, refused, translated_twice, cgnat):
        with scene(report) as made:
            alone(made)
    return report


@contextmanager
def scene(report: Report, ports: range = RANGE) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="kaalia-") as folder, networks() as nets:
        made = Scene(nets, Path(folder), report, ports)
        made.build()
        yield made


def dropped_ports(made: Scene, chance: random.Random, number: int) -> None:
    """Three ports are dropped, on the router or on the host itself before packets part for INPUT and FORWARD.

    So renters' ports are dropped too. The map and the finding name exactly these.
    """
    tcp, udp, both = chance.sample(RANGE, 3)
    lost = {(tcp, "tcp"), (udp, "udp"), (both, "tcp"), (both, "udp")}
    where, table, chain = chance.choice((("home", "filter", "FORWARD"), ("host", "raw", "PREROUTING")))
    for port, protocol in lost:
        made.nets.iptables(where, f"-t {table} -I {chain} -p {protocol} --dport {port} -j DROP")
    found = made.probe()
    for port, protocol in lost:
        made.nets.iptables(where, f"-t {table} -D {chain} -p {protocol} --dport {port} -j DROP")
    seen = not_open(found)
    report = made.report
    report.counts["ports_dropped"] += 3
    report.counts["ports_named"] += len({port for port, _ in seen} & {tcp, udp, both})
    report.check(f"round {number}: exactly the dropped ones are not open", seen == lost, (seen, lost))
    wanted = f"by TCP and UDP on port {both}; by TCP on port {tcp}; by UDP on port {udp}: "
    told = finding(found, "ports_filtered")
    report.check("the finding names them", wanted in told.get("message", ""), told or found["findings"])
    report.check("nothing else is found", codes(found) == {"ports_filtered"}, codes(found))
    lines = f"forward TCP and UDP ports {in_short((tcp, udp, both))} to {HOST}"
    report.check("the router's line is told", lines in told.get("remedy", ""), told)
    report.say(f"dropped {tcp}/tcp, {udp}/udp, {both}/both at {where}: found {sorted(seen)}")
    report.check("the address is the router's", found["address"] == HOME, found["address"])
    clean = made.probe()
    report.check("without the firewall all are open", not not_open(clean) and not codes(clean), not_open(clean))


def input_dropped(made: Scene) -> None:
    """INPUT drops all that is new, as ufw does: published ports never meet it, so every port is proven all the same."""
    rules = (
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -p tcp --dport 40007 -j DROP",
        "-A INPUT -j REJECT --reject-with icmp-host-prohibited",
    )
    for rule in rules:
        made.nets.iptables("host", rule)
    made.nets.iptables("host", "-P INPUT DROP")
    before = saved(made)
    found = made.probe()
    made.report.check("INPUT that drops by default loses no port", not not_open(found), not_open(found))
    made.report.check("and is no finding", not codes(found), codes(found))
    made.report.check("the firewall is as it was", saved(made) == before, saved(made))
    made.nets.iptables("host", "-P INPUT ACCEPT")
    made.nets.iptables("host", "-F INPUT")


def second_firewall(made: Scene) -> None:
    """Another packet filter drops what iptables has accepted, as firewalld does: then nothing is claimed."""
    for rule in ("-A INPUT -p udp -j DROP", f"-A INPUT -p tcp --dport {FORWARDED} -j DROP"):
        made.nets.run("host", "iptables-legacy", "-w", *rule.split())
    found = made.probe()
    made.report.check("what another firewall drops is unknown", codes(found) == {"ports_unknown"}, codes(found))
    made.report.check("and told so", found["is_blind"] is True, found["is_blind"])
    made.nets.run("host", "iptables-legacy", "-w", "-F", "INPUT")
    clean = made.probe()
    made.report.check("without it all are open", not not_open(clean) and not clean["is_blind"], not_open(clean))


def killed(made: Scene) -> None:
    """A daemon that is killed in the middle of a batch leaves rules; the next one takes them out."""
    made.nets.iptables("home", "-I FORWARD -i isp -m conntrack --ctstate NEW -j DROP")
    before = saved(made)
    LocalClient(made.socket).order_probe()
    wait_until("a batch to begin", lambda: "KAALIA-PROBE" in saved(made), 30)
    assert made.daemon is not None
    made.daemon.kill()
    made.daemon.wait(10)
    made.report.check("the rules are there", "KAALIA-KNOCK" in saved(made), saved(made))
    made.nets.iptables("home", "-D FORWARD -i isp -m conntrack --ctstate NEW -j DROP")
    made.start_daemon()
    wait_until("the rules to go", lambda: saved(made) == before, 30)
    made.report.check("rules of a killed daemon are gone", saved(made) == before, saved(made))


def saved(made: Scene) -> str:
    """The host's rules, without counters and times."""
    text = "".join(made.nets.run("host", "iptables-save", "-t", table) for table in ("filter", "raw"))
    lines = (re.sub(r" \[\d+:\d+\]", "", line) for line in text.splitlines())
    return "\n".join(line for line in lines if not line.startswith("#"))


def other_program(made: Scene) -> None:
    serve = "import socket, time; kept = socket.create_server(('0.0.0.0', 40004)); time.sleep(999)"
    program = made.nets.start("host", sys.executable, "-c", serve, log=made.log("program"))
    wait_until("the program to listen", lambda: ":40004" in made.nets.run("host", "ss", "-ltn"), 10)
    found = made.probe()
    made.nets.stop(program)
    told = finding(found, "ports_in_use")
    made.report.check("a program's port is held", not_open(found) == {(40004, "tcp")}, not_open(found))
    made.report.check("it is named", "used by python" in told.get("evidence", ""), told)
    made.report.say(f"a program of the host: {told.get('evidence')}")


def shifted_and_stolen(made: Scene) -> None:
    """One port is forwarded to another number, one to a machine that is not the host."""
    made.nets.machine("other")
    made.nets.cable("other", "192.168.2.9/24", "home", "192.168.2.1/24")
    made.nets.default_route("other", "192.168.2.1")
    made.nets.start("other", *python("http.server", "40006", "--bind", "192.168.2.9"), log=made.log("other"))
    wait_until("the other machine to listen", lambda: ":40006" in made.nets.run("other", "ss", "-ltn"), 10)
    rules = (
        f"--dport 40005 -j DNAT --to-destination {HOST}:40003",
        "--dport 40006 -j DNAT --to-destination 192.168.2.9",
    )
    for rule in rules:
        made.nets.iptables("home", f"-t nat -I PREROUTING -i isp -p tcp {rule}")
    found = made.probe()
    for rule in rules:
        made.nets.iptables("home", f"-t nat -D PREROUTING -i isp -p tcp {rule}")
    seen = {(span["first"], span["reason"], span["detail"]) for span in found["spans"] if not span["is_open"]}
    wanted = {(40005, "shifted", "-2"), (40006, "other", "")}
    made.report.check("a shifted port and a stolen one are told apart", seen == wanted, seen)
    made.report.check("both are found", codes(found) == {"ports_shifted", "ports_answered_by_other"}, codes(found))
    made.report.say(f"forwarded wrongly: {sorted(seen)}")


def hairpin(made: Scene) -> None:
    made.report.check("a router without hairpin is recognised", made.probe()["hairpin"] is False)
    rules = (
        f"PREROUTING -s {HOST} -d {HOME} -p tcp --dport {FORWARDED} -j DNAT --to-destination {HOST}",
        f"POSTROUTING -s {HOST} -d {HOST} -j MASQUERADE",
    )
    for rule in rules:
        made.nets.iptables("home", f"-t nat -A {rule}")
    works = made.probe()["hairpin"]
    for rule in rules:
        made.nets.iptables("home", f"-t nat -D {rule}")
    made.report.check("a router with hairpin is recognised", works is True, works)


def udp_forgotten(made: Scene) -> None:
    made.nets.iptables("home", "-I FORWARD -i isp -p udp -j DROP")
    found = made.probe()
    made.nets.iptables("home", "-D FORWARD -i isp -p udp -j DROP")
    made.report.check("TCP only is one finding", codes(found) == {"ports_udp_filtered"}, codes(found))
    made.report.check("all of TCP is open", not [one for one in not_open(found) if one[1] == "tcp"], not_open(found))


def liar(made: Scene) -> None:
    """A prober that calls everything open is believed in nothing; what was proven stays."""
    before = made.probe()
    lying = made.nets.start(
        "prober", *python("tests.support.dishonest", "prober", PROBER, "8091"), log=made.log("liar")
    )
    wait_until("the liar to listen", lambda: ":8091" in made.nets.run("prober", "ss", "-ltn"), 10)
    made.start_daemon(url=f"http://{PROBER}:8091")
    client = LocalClient(made.socket)
    client.order_probe()
    wait_until("the lie to be told", lambda: client.ports().failure, 60)
    document = client.ports()
    made.nets.stop(lying)
    failure = document.failure
    made.report.check("a lie is told", failure is not None and failure.code == "prober_lied", failure)
    known = document.found
    kept = known is not None and known.probed_at.isoformat() == before["probed_at"].replace("Z", "+00:00")
    made.report.check("the map stays as it was", kept, known and known.probed_at)
    warned = {one.code for one in client.status().warnings}
    made.report.check("kaalia status warns", "prober_lied" in warned, warned)


def nothing_forwarded(made: Scene) -> None:
    made.nets.iptables("home", "-A INPUT -i isp -m conntrack --ctstate NEW -j DROP")
    made.start_daemon()
    found = made.probe()
    told = finding(found, "ports_all_filtered")
    wanted = f"on the router {GATEWAY}: forward TCP and UDP {FIRST}-{LAST} to {HOST}, same ports"
    made.report.check("a closed range is one finding", codes(found) == {"ports_all_filtered"}, codes(found))
    made.report.check("with the router's line", wanted in told.get("remedy", ""), told)
    made.report.say(f"nothing forwarded: {told.get('remedy', '')[:120]}")
    made.forward()
    mended = made.probe()
    made.report.check("the line mends it", not not_open(mended), not_open(mended))


def refused(made: Scene) -> None:
    """A router that forwards nothing and refuses by itself."""
    made.start_daemon()
    found = made.probe()
    made.report.check("refusals of somebody else are told", codes(found) == {"ports_refused"}, codes(found))
    made.report.check("every port is closed", len(not_open(found)) == 2 * len(RANGE), len(not_open(found)))


def translated_twice(made: Scene) -> None:
    """The first router's outer address is private: another one stands before it."""
    made.forward()
    _tell_outer_address(made, "10.20.0.7")
    made.start_daemon()
    found = made.probe()
    told = finding(found, "ports_double_nat")
    made.report.check("a double NAT is recognised", "10.20.0.7" in told.get("message", ""), codes(found))


def cgnat(made: Scene) -> None:
    """The provider translates: the home router has an address of 100.64.0.0/10 and forwards, in vain."""
    made.forward()
    made.nets.run("home", "ip", "address", "add", "100.64.0.2/24", "dev", "isp")
    made.nets.run("home", "ip", "address", "delete", f"{HOME}/24", "dev", "isp")
    made.nets.run("isp", "ip", "address", "add", "100.64.0.1/24", "dev", "home")
    made.nets.default_route("home", "100.64.0.1")
    made.nets.iptables("isp", "-t nat -A POSTROUTING -o prober -j MASQUERADE")
    made.nets.iptables("isp", "-A INPUT -i prober -m conntrack --ctstate NEW -j DROP")
    _tell_outer_address(made, "100.64.0.2")
    made.start_daemon()
    found = made.probe()
    told = finding(found, "ports_behind_cgnat")
    made.report.check("CGNAT is recognised", "100.64.0.2" in told.get("message", ""), codes(found))
    made.report.check("the provider's address was tried", found["address"] == "198.51.100.1", found["address"])
    made.report.check("nothing is open", len(not_open(found)) == 2 * len(RANGE), len(not_open(found)))
    made.report.say(f"CGNAT: {told.get('message')}")


def _tell_outer_address(made: Scene, outer: str) -> None:
    made.nets.start("home", *python("tests.support.dishonest", "router", GATEWAY, outer), log=made.log("natpmp"))
    wait_until("the router to answer", lambda: ":5351" in made.nets.run("home", "ss", "-lun"), 10)


def not_open(found: dict[str, Any]) -> set[Place]:
    return {
        (port, span["protocol"])
        for span in found["spans"]
        if not span["is_open"]
        for port in range(span["first"], span["last"] + 1)
    }


def codes(found: dict[str, Any]) -> set[str]:
    return {one["code"] for one in found["findings"]}


def finding(found: dict[str, Any], code: str) -> dict[str, str]:
    return next((one for one in found["findings"] if one["code"] == code), {})
