"""A host that lets nobody in is rented by the real client and reached by the real ssh through a relay, and stays so.

The host's firewall drops every connection that comes in; relay and renter are machines of their own (network
namespaces). The daemon, the connection to the relay, the relay's program and all of the relay are killed under a
renter's running session; what renters move by it is metered as internet traffic, a kill of the daemon in between;
another host cannot listen on this one's ports; what is over is no longer reached.
"""

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from kaalia.model.traffic import Bytes
from tests.proofs.metering import at_rest
from tests.proofs.report import Report, Say
from tests.proofs.traffic import local
from tests.proofs.traffic import told as charged
from tests.support.docker_engine import PrivateDocker
from tests.support.relayed import HOST, LOGIN_PORT, PORTS, RELAY, Far, Session, far
from tests.support.scene import scene
from tests.support.ssh_image import ONSTART, SSH_IMAGE, import_ssh
from tests.support.stack import Stack, StackOptions
from tests.support.waiting import wait_until

ROUNDS = 3
LOOK_S = 2
UP, DOWN = 60_000_000, 20_000_000
OVERHEAD = 0.02
"""Of ssh's own packets inside the connection, its answers, and headers."""
BACK_S = 60.0
"""Three waits of the daemon's longest pause between tries would be 90 s; a relay that is up must be found sooner."""


class Scene:
    """A renter with a key, and what he rents."""

    def __init__(self, stack: Stack, there: Far, folder: Path, report: Report) -> None:
        self.stack, self.there, self.report = stack, there, report
        self.key, self.onstart, self.folder = folder / "renter", folder / "onstart.sh", folder
        self.onstart.write_text(ONSTART)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        stack.renter.run("create", "ssh-key", self.key.with_suffix(".pub").read_text())
        self._sessions = 0

    def rent(self, stack: Stack, *flags: str) -> int:
        """By the real client, on this machine; returns the instance once it runs."""
        began = time.monotonic()
        gpus = 1 if stack is self.stack else 0
        offer = wait_until("an offer", lambda: stack.rentable_offer(gpus), 60)
        words = ("--image", SSH_IMAGE, "--disk", "1", *flags, "--onstart", str(self.onstart))
        made = stack.renter.json("create", "instance", str(offer), *words)
        instance_id = int(made["new_contract"])
        stack.wait_status(instance_id, "running")
        self.wait_greeting(instance_id, 30)
        self.report.counts["rented"] += 1
        self.report.worst("rented_to_reached_s", time.monotonic() - began)
        return instance_id

    def url(self, instance_id: int) -> str:
        """As the real client prints it; its cache would hide a change."""
        for file in (self.stack.renter.home / ".cache" / "vastai").glob("ssh_*.json"):
            file.unlink()
        return self.stack.renter.run("ssh-url", str(instance_id)).stdout.strip()

    def greeting(self, instance_id: int) -> str:
        """What the renter's ssh shows of the instance's page."""
        command = [*self.there.ssh(self.url(instance_id), self.key), "cat /tmp/index.html"]
        self.report.counts["logins"] += 1
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout.strip()

    def wait_greeting(self, instance_id: int, timeout_s: float) -> float:
        """How long it took until the renter got in."""
        began = time.monotonic()
        wanted = f"I am C.{instance_id}"
        wait_until(f"{wanted} by ssh", lambda: self.greeting(instance_id) == wanted, timeout_s, 0.2)
        return time.monotonic() - began

    def session(self, instance_id: int) -> Session:
        self._sessions += 1
        return Session(self.there.ssh(self.url(instance_id), self.key), self.folder / f"session-{self._sessions}.log")

    def port(self, instance_id: int) -> int:
        return int((self.stack.instance(instance_id) or {})["relay_ports"]["22/tcp"])

    def life(self, instance_id: int) -> tuple[str, str]:
        """Another one would be another container, or another start of it."""
        document = self.stack.engine.inspect(f"C.{instance_id}")
        return document["Id"], document["State"]["StartedAt"]

    def told(self, stack: Stack | None = None) -> set[str]:
        """Codes in `kaalia status`."""
        done = self.stack.kaalia("status", "--socket", str((stack or self.stack).socket), "--json")
        found = json.loads(done.stdout or "{}")
        return {one["code"] for part in ("problems", "warnings") for one in found.get(part, [])}


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` of kills of daemon, relay's program and connection (default 3), the first two in random order."""
    report, chance = Report(say), random.Random(seed)
    config = {"intervals": {"resync_s": LOOK_S}}
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kaalia-relay-")))
        there = cleanup.enter_context(far(folder))
        stack, _ = cleanup.enter_context(scene("2xRTX_4090", public_ip=HOST, extra_config=config))
        import_ssh(stack.engine)
        there.introduce(stack)
        there.start(stack)
        shut(there, report)
        made = Scene(stack, there, folder, report)
        stack.host.json("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", "-u", "0.05", "-d", "0.02")
        mine = reached(made)
        session = made.session(mine)
        say("rented, reached by ssh and Jupyter's port; a session is open")
        neighbours(made, mine, session)
        say("forwards came and went beside the session")
        for number in range(rounds or ROUNDS):
            kills(made, mine, session, chance)
            say(f"round {number + 1} of kills: {report.counts['kills']} so far")
        session.close()
        metered(made, mine)
        say("what the renter moved was metered")
        power_cut(made, mine)
        say("the relay died and came back")
        impostor(made, mine)
        say("a relay with another key was refused")
        with another_host(stack, folder) as other:
            foreign_ports(made, mine, other)
        released(made, mine)
    return report


def shut(there: Far, report: Report) -> None:
    """The firewall is what keeps the renter out: before it a door of the host opens, after it none does."""
    with there.log("door").open("wb") as log:
        door = subprocess.Popen(["busybox", "nc", "-ll", "-p", "21999", "-e", "true"], stdout=log, stderr=log)
    try:
        report.check("a host without firewall is reached", bool(wait_until("", lambda: there.opens(HOST, 21999), 10)))
        there.shut()
        report.check("a host behind its firewall is not", not there.opens(HOST, 21999))
    finally:
        door.kill()
        door.wait()


def reached(made: Scene) -> int:
    """By ssh_proxy, and by jupyter_proxy with its two ports; never directly."""
    mine = made.rent(made.stack, "--ssh")
    row = made.stack.instance(mine) or {}
    report = made.report
    report.check("the row names the relay", (row["ssh_host"], row["ssh_port"]) == (RELAY, made.port(mine)), row)
    report.check("the client prints it", made.url(mine) == f"ssh://root@{RELAY}:{made.port(mine)}", made.url(mine))
    (binding,) = (one for one in LocalClient(made.stack.socket).contract(mine).ports if one.container_port == 22)
    report.check("the host's own port stays shut", not made.there.opens(HOST, binding.host_port))
    notebook = made.rent(made.stack, "--jupyter")
    row = made.stack.instance(notebook) or {}
    script = f"wget -q -O - http://{row['ssh_host']}:{row['ssh_port']}/"
    page = made.there.nets.run("renter", "busybox", *script.split()).strip()
    report.check("Jupyter's port is reached", page == f"I am C.{notebook}", page)
    wanted = f"ssh://root@{RELAY}:{int(row['ssh_port']) + 1}"
    report.check("ssh beside Jupyter is the next port", made.url(notebook) == wanted, made.url(notebook))
    made.stack.destroy(notebook)
    return mine


def neighbours(made: Scene, mine: int, session: Session) -> None:
    """Others of the same machine come and go on the same connection."""
    tunnel = tunnel_pid(made)
    other = made.rent(made.stack, "--ssh")
    port = made.port(other)
    made.report.check("the other is listened for", port in made.there.listening(), made.there.listening())
    made.stack.destroy(other)
    gone = wait_until("the other's port to be free", lambda: port not in made.there.listening(), 20, 0.1)
    made.report.check("its port is free", gone)
    made.report.check("the session of the first goes on", session.goes_on())
    made.report.check("on the same connection", tunnel_pid(made) == tunnel, tunnel_pid(made))


def kills(made: Scene, mine: int, session: Session, chance: random.Random) -> None:
    """Of daemon and program nobody notices anything; a killed connection is made anew."""
    life = made.life(mine)
    for victim in chance.sample(("daemon", "program"), 2):
        tunnel = tunnel_pid(made)
        if victim == "daemon":
            made.stack.kill_daemon()
            time.sleep(chance.uniform(0, 1))
            made.stack.start_daemon()
        else:
            made.there.kill_program()
            time.sleep(chance.uniform(0, 1))
            made.there.start(made.stack)
        made.report.counts["kills"] += 1
        made.report.check(f"the session outlives the {victim}", session.goes_on())
        made.report.worst(f"after_{victim}_s", made.wait_greeting(mine, BACK_S))
        made.report.check(f"the connection outlives the {victim}", tunnel_pid(made) == tunnel, tunnel_pid(made))
    loose = made.session(mine)
    subprocess.run(["kill", "-9", str(tunnel_pid(made))], check=True)
    made.report.counts["kills"] += 1
    made.report.worst("after_connection_s", made.wait_greeting(mine, BACK_S))
    loose.close()
    session.restart(made.there.ssh(made.url(mine), made.key))
    made.report.check("the tenant was left alone", made.life(mine) == life, made.life(mine))


def metered(made: Scene, mine: int) -> None:
    """The renter gets and sends known amounts by ssh, and the daemon dies between them."""
    before = counted(made, mine)
    command = made.there.ssh(made.url(mine), made.key)
    given = subprocess.run([*command, f"head -c {UP} /dev/zero"], check=True, capture_output=True).stdout
    made.stack.kill_daemon()
    taken = subprocess.run([*command, "wc -c"], check=True, input=bytes(DOWN), capture_output=True).stdout
    made.report.check("all of it arrives", (len(given), int(taken)) == (UP, DOWN), (len(given), taken))
    made.stack.start_daemon()

    def grown() -> Bytes | None:
        moved = counted(made, mine) - before
        return moved if moved.up >= UP and moved.down >= DOWN else None

    moved = wait_until("it to be metered", grown, 30, 0.2)
    for way, size, meter in (("up", UP, moved.up), ("down", DOWN, moved.down)):
        made.report.check(f"no more is metered {way}", meter <= size * (1 + OVERHEAD), (meter, size))
        made.report.worst(f"metered_{way}_above_percent", 100 * (meter - size) / size)


def counted(made: Scene, mine: int) -> Bytes:
    """Internet bytes of the contract as the daemon shows them, with the last seconds in it."""
    time.sleep(LOOK_S + 0.5)
    shown = wait_until("the daemon's sums", lambda: local(made.stack, mine), 30, 0.2)
    return Bytes(shown["total"]["up"], shown["total"]["down"])


def power_cut(made: Scene, mine: int) -> None:
    """All of the relay dies: told, tenants untouched, and back by itself."""
    life, address = made.life(mine), made.url(mine)
    made.there.kill_all()
    made.report.counts["kills"] += 1
    wait_until("relay_down to be told", lambda: "relay_down" in made.told(), 30, 0.2)
    made.report.check("nobody listens", not made.there.listening(), made.there.listening())
    made.report.check("the tenant runs on", made.stack.local_state(mine) == "running", made.stack.local_state(mine))
    made.there.start(made.stack)
    made.report.worst("after_power_cut_s", made.wait_greeting(mine, BACK_S))
    wait_until("relay_down to be over", lambda: "relay_down" not in made.told(), 30, 0.2)
    made.report.check("the tenant was left alone", made.life(mine) == life, made.life(mine))
    made.report.check("by the same address", made.url(mine) == address, made.url(mine))


def impostor(made: Scene, mine: int) -> None:
    """With another host key: the marketplace refuses it, and so does the machine."""
    made.there.kill_all()
    command = made.there.command(made.stack, data=made.folder / "impostor")
    done = subprocess.run(
        ["ip", "netns", "exec", "relay", *command], check=False, capture_output=True, text=True, timeout=30
    )
    made.report.check("the marketplace refuses it", "relay_key_changed" in done.stderr, (done.returncode, done.stderr))
    made.there.start(made.stack, data=made.folder / "impostor", url="http://127.0.0.1:1")
    wait_until("the machine to refuse it", lambda: "relay_key_changed" in made.told(), 60, 0.2)
    made.report.check("nothing listens there", not made.there.listening(), made.there.listening())
    made.there.kill_all()
    made.there.start(made.stack)
    made.report.worst("after_impostor_s", made.wait_greeting(mine, BACK_S))
    wait_until("it to be over", lambda: "relay_key_changed" not in made.told(), 30, 0.2)


def foreign_ports(made: Scene, mine: int, other: Stack) -> None:
    """With the real ssh and either machine's key: what is not its own is refused, each port of it."""
    theirs = made.rent(other, "--ssh")
    keys = {name: stack.folder / "state" / "relay" / "key" for name, stack in (("one", made.stack), ("two", other))}
    blocks = {name: block(made.port(instance)) for name, instance in (("one", mine), ("two", theirs))}
    made.report.check("each has ports of its own", not set(blocks["one"]) & set(blocks["two"]), blocks)
    for name, key in keys.items():
        for port in PORTS:
            if port in blocks[name]:
                continue
            made.report.counts["foreign_ports_tried"] += 1
            made.report.check(f"machine {name} cannot listen on {port}", not listens(made, key, port))
    free = next(port for port in blocks["one"] if port not in made.there.listening())
    made.report.check("on its own it can", listens(made, keys["one"], free))
    for words, command in ((("-T",), "id"), (("-tt",), ""), (("-W", "127.0.0.1:2222"), ""), (("-s",), "sftp")):
        done = login(made, keys["one"], *words, command=command)
        made.report.check(f"ssh {words[0]} gets nothing at the relay", not done.stdout and done.returncode == 255, done)
    stranger = made.folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    made.report.check("a stranger's key is refused", "Permission denied" in login(made, stranger, "-N").stderr)
    made.wait_greeting(mine, 10)
    made.stack.renter_api.call("DELETE", f"/api/v0/instances/{theirs}/", {})
    wait_until("the other host's tenant to go", lambda: not made.stack.engine.has_container(f"C.{theirs}"), 60, 0.2)


def released(made: Scene, mine: int) -> None:
    address, port, sums = made.url(mine), made.port(mine), counted(made, mine)
    made.stack.renter_api.call("PUT", f"/api/v0/instances/{mine}/", {"state": "stopped"})
    wait_until("the tenant to rest", lambda: at_rest(made.stack, mine), 60, 0.2)
    wait_until("the relayed bytes to be charged", lambda: charged(made.stack, mine, sums), 30, 0.2)
    made.stack.destroy(mine)
    wait_until("the port to be free", lambda: port not in made.there.listening(), 20, 0.1)
    made.report.check("nothing is listened for", not made.there.listening(), made.there.listening())
    done = subprocess.run([*made.there.ssh(address, made.key), "id"], check=False, capture_output=True, text=True)
    made.report.check("the address leads nowhere", done.returncode == 255, done)
    wait_until("the connection to end", lambda: tunnel_pid(made) is None, 20, 0.1)


@contextmanager
def another_host(stack: Stack, folder: Path) -> Iterator[Stack]:
    """A second machine of the same owner, with the same engine and without GPUs."""
    assert isinstance(stack.engine, PrivateDocker)
    config: dict[str, Any] = {"docker": {"subnet_pool": "10.215.0.0/16"}}
    other = Stack(folder / "other", StackOptions(stack.engine, "22000-22399", HOST, extra_config=config))
    other.port, other.url, other.data_dir = stack.port, stack.url, stack.data_dir
    other.host_key, other.renter_key = stack.host_key, stack.renter_key
    other.folder.mkdir()
    other.join()
    try:
        other.list_machine()
        yield other
    finally:
        other.close()


def tunnel_pid(made: Scene) -> int | None:
    """The process of the host's connection to the relay, as it says by its control socket."""
    for control in (made.stack.folder / "state" / "relay").glob("*.sock"):
        command = ["ssh", "-F", "none", "-S", str(control), "-O", "check", "relay"]
        told = subprocess.run(command, check=False, capture_output=True, text=True).stderr
        if "(pid=" in told:
            return int(told.partition("(pid=")[2].partition(")")[0])
    return None


def block(port: int) -> range:
    first = PORTS[0] + (port - PORTS[0]) // 16 * 16
    return range(first, first + 16)


def login(made: Scene, key: Path, *words: str, command: str = "", stay_s: int = 20) -> subprocess.CompletedProcess[str]:
    """The machine's own way to the relay, with other wishes. Exit code 124: it stayed until its time was over."""
    hosts = next((made.stack.folder / "state" / "relay").glob("*.known_hosts"))
    options = f"-F none -o BatchMode=yes -o UserKnownHostsFile={hosts} -o HostKeyAlias=kaalia-relay-west"
    more = f"-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o ExitOnForwardFailure=yes -i {key} -p {LOGIN_PORT}"
    argv = ["timeout", str(stay_s), "ssh", *options.split(), *more.split(), *words, f"nobody@{RELAY}", *command.split()]
    return subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def listens(made: Scene, key: Path, port: int) -> bool:
    """Ask for a port: ssh stays when it gets it, and ends when it is refused."""
    done = login(made, key, "-N", "-R", f"{port}:127.0.0.1:9", stay_s=2)
    return done.returncode == 124
