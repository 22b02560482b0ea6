"""The real OpenSSH client and the real `vastai` in images of four kinds, with nothing installed in them.

For each kind: ssh-url, commands, scp, sftp, rsync, `vastai copy` there and back and to another instance, a forwarded
port, tmux, variables, onstart, keys attached and taken away under way, reboot, stop and start, the daemon killed under
a session; a snapshot to a registry, and a recycle of what is rented of it; and what of the image was changed. Then what
must be refused: a private key, a user that the image lacks. Once, a scheduled reboot.
"""

import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.proofs.copying import Copying
from tests.proofs.report import Report, Say
from tests.support.kinds import KINDS, import_kinds, name_of
from tests.support.registry import Registry, a_registry
from tests.support.scene import scene
from tests.support.sessions import GREETING, Terminal, answering, copies, forwarded, greeting, login
from tests.support.ssh import Ssh, new_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

DOCUMENTED = {
    *("/.kaalia", "/.launch", "/etc", "/etc/environment", "/root", "/root/onstart.sh", "/root/.vast_containerlabel"),
    *("/root/.ssh", "/root/.ssh/authorized_keys", "/run", "/run/sshd"),
}
"""All that the kit may write into an image: docs/access.md."""
BY_THE_ENGINE = ("/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab")
ONSTART = "echo onstart by $(id -u) of $VAST_CONTAINERLABEL; touch /tmp/onstart-was-here"
LOCKED_OUT = 255
"""What the client ends with when it is not let in."""


class Renter:
    """One renter with a key, and a stack to rent from."""

    def __init__(self, stack: Stack, report: Report, registry: Registry) -> None:
        self.stack, self.report, self.registry = stack, report, registry
        self.key, self.public = new_key(stack.folder, "renter")
        stack.renter.run("create", "ssh-key", self.public)
        self.onstart = stack.folder / "onstart.sh"
        self.onstart.write_text(ONSTART)

    def rent(self, kind: str, *flags: str, image: str | None = None) -> int:
        offer = wait_until("an offer", lambda: self.stack.rentable_offer(1), 60)
        words = ("--image", image or name_of(kind), "--disk", "1", "--ssh", "--direct", *flags)
        made = self.stack.renter.json("create", "instance", str(offer), *words)
        return int(made["new_contract"])

    def at(self, instance: int) -> Ssh:
        """By the address that `vastai ssh-url` prints."""
        self.stack.wait_status(instance, "running")
        url = self.stack.renter.run("ssh-url", str(instance)).stdout.strip()
        place, _, port = url.removeprefix("ssh://").rpartition(":")
        return answering(Ssh(self.key, int(port), place.partition("@")[2], hosts=f"known_hosts.{instance}"))


def prove(seed: int, rounds: int, say: Say) -> Report:
    report = Report(say)
    with scene(gpus="2xRTX_4090") as (stack, _), a_registry() as registry:
        import_kinds(stack.engine)
        stack.list_machine()
        renter = Renter(stack, report, registry)
        for number in range(rounds or 1):
            for kind in KINDS:
                walk(renter, kind)
                say(
                    f"round {number + 1}, {kind}: {report.counts['checks']} checks, {len(report.violations)} violations"
                )
        scheduled(renter)
        refusals(renter)
        say(f"scheduled reboot and refusals: {len(report.violations)} violations")
    return report


def walk(renter: Renter, kind: str) -> None:
    """Everything a renter does, in an image of this kind."""
    stack, report = renter.stack, renter.report
    began = time.monotonic()
    instance = renter.rent(kind, "--env", "-e GREETING=hello", "--onstart", str(renter.onstart))
    ssh = renter.at(instance)
    report.check(f"{kind}: ssh true", ssh.run("true").returncode == 0)
    report.worst(f"{kind}_rented_to_reached_s", time.monotonic() - began)
    report.counts["rented"] += 1
    changed = changes(stack, instance)
    report.check(f"{kind}: only documented files are touched", changed <= DOCUMENTED, sorted(changed - DOCUMENTED))
    sessions(renter, kind, instance, ssh)
    keys(renter, kind, instance, ssh)
    Copying(stack, report, renter.key).prove(kind, instance, lambda: renter.rent(kind))
    lives(renter, kind, instance, ssh)
    anew(renter, kind, instance, ssh)
    stack.renter_api.call("DELETE", f"/api/v0/instances/{instance}/", {})
    wait_until("the container to go", lambda: not stack.engine.has_container(f"C.{instance}"), 60)


def changes(stack: Stack, instance: int) -> set[str]:
    """Paths of the image that are other than they were, by the engine itself; what onstart did is the renter's."""
    told: list[dict[str, Any]] = stack.engine.request("GET", f"/containers/C.{instance}/changes") or []
    paths = {str(one["Path"]) for one in told}
    return {path for path in paths if not path.startswith((*BY_THE_ENGINE, "/tmp"))}


def sessions(renter: Renter, kind: str, instance: int, ssh: Ssh) -> None:
    report = renter.report
    done = ssh.run('id -u; echo "$GREETING $VAST_CONTAINERLABEL"; exit 5')
    expected = (f"0\nhello C.{instance}\n", "", 5)
    report.check(f"{kind}: a command", (done.stdout, done.stderr, done.returncode) == expected, done)
    with tempfile.TemporaryDirectory() as folder:
        report.check(f"{kind}: scp, sftp, rsync", not (failed := copies(ssh, Path(folder))), failed)
    with forwarded(ssh, 22) as port:
        report.check(f"{kind}: a forwarded port", greeting(port) == GREETING)
    environment = ssh.run("cat /etc/environment").stdout
    report.check(f"{kind}: /etc/environment", "GREETING='hello'" in environment, environment)
    told = f"onstart by 0 of C.{instance}"
    report.check(f"{kind}: onstart in the log", told in logs(renter, instance, told), told)
    with Terminal(ssh) as terminal:
        terminal.type("echo in${TMUX:+side}-$GREETING")
        report.check(f"{kind}: a terminal in tmux", shows(terminal, "inside-hello"), terminal.text[-300:])
        terminal.leave("touch ~/.no_auto_tmux; exit")
    with Terminal(ssh) as terminal:
        terminal.type("echo out${TMUX:-side}")
        report.check(f"{kind}: a terminal without tmux", shows(terminal, "outside"), terminal.text[-300:])
        terminal.leave()


def keys(renter: Renter, kind: str, instance: int, ssh: Ssh) -> None:
    """Another key is let in and locked out again, and nothing restarts for it."""
    stack, report = renter.stack, renter.report
    with tempfile.TemporaryDirectory() as folder:
        path, public = new_key(Path(folder), "guest")
        guest = Ssh(path, ssh.port)
        before = stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"]
        report.check(f"{kind}: a stranger is locked out", guest.run("true").returncode == LOCKED_OUT)
        stack.renter.run("attach", "ssh", str(instance), str(path.with_suffix(".pub")))
        report.check(f"{kind}: attach ssh", becomes(lambda: guest.run("true").returncode == 0))
        listed = stack.renter_api.get(f"/api/v0/instances/{instance}/ssh/")
        number = next(one["id"] for one in listed if one["public_key"] == public)
        stack.renter.run("detach", "ssh", str(instance), str(number))
        report.check(f"{kind}: detach ssh", becomes(lambda: guest.run("true").returncode == LOCKED_OUT))
        after = stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"]
        report.check(f"{kind}: nothing restarts for a key", before == after, (before, after))


def lives(renter: Renter, kind: str, instance: int, ssh: Ssh) -> None:
    """Reboot, stop and start keep port and host key; the end of the daemon disturbs no session."""
    stack, report = renter.stack, renter.report
    with Terminal(ssh) as terminal:
        terminal.type("echo be${X}fore")
        shows(terminal, "before")
        stack.kill_daemon()
        report.counts["daemon_kills"] += 1
        terminal.type("echo mean${X}while")
        report.check(f"{kind}: the session lives on", shows(terminal, "meanwhile"), terminal.text[-300:])
        report.check(f"{kind}: new sessions begin", ssh.run("true").returncode == 0)
        stack.start_daemon()
        wait_until("the daemon", lambda: stack.local_state(instance) == "running", 30)
        terminal.leave()
    began = stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"]
    stack.renter.run("reboot", "instance", str(instance))
    wait_until("the reboot", lambda: stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"] != began, 30)
    report.check(
        f"{kind}: ssh after reboot, the same host key", login(stack, renter.key, instance).run("true").stderr == ""
    )
    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")
    stack.renter.run("start", "instance", str(instance))
    again = login(stack, renter.key, instance)
    report.check(f"{kind}: ssh after stop and start, the same port", again.port == ssh.port, (again.port, ssh.port))
    done = again.run("cat /root/.vast_containerlabel")
    report.check(f"{kind}: and the same host key", done.stdout == f"C.{instance}\n", done.stderr)


def anew(renter: Renter, kind: str, instance: int, ssh: Ssh) -> None:
    """A snapshot goes to the registry; one that is rented of it has the files, and is recycled in its place."""
    stack, report, registry = renter.stack, renter.report, renter.registry
    ssh.run("echo saved > /root/saved")
    repo, place = f"me/{kind}:{instance}", registry.address
    login_words = ("--docker_login_user", registry.username, "--docker_login_pass", registry.password)
    stack.renter.run("take", "snapshot", str(instance), "--repo", repo, "--container_registry", place, *login_words)
    report.check(f"{kind}: take snapshot", becomes(lambda: "snapshot pushed to" in message(renter, instance), 60))
    child = renter.rent(
        kind, "--login", f"-u {registry.username} -p {registry.password} {place}", image=f"{place}/{repo}"
    )
    here = renter.at(child)
    done = here.run("cat /root/saved; echo lost > /root/lost")
    report.check(f"{kind}: what was saved is in the snapshot", done.stdout == "saved\n", done)
    made = stack.engine.inspect(f"C.{child}")["Id"]
    stack.renter.run("recycle", "instance", str(child))
    wait_until("the recycle", lambda: another(stack, child, made), 60)
    again = login(stack, renter.key, child)
    report.check(f"{kind}: ssh after recycle, the same port", again.port == here.port, (again.port, here.port))
    done = again.run("cat /root/saved; cat /root/lost")
    report.check(f"{kind}: and the same host key, a fresh image", done.stdout == "saved\n", done)
    report.counts["recycled"] += 1
    stack.renter_api.call("DELETE", f"/api/v0/instances/{child}/", {})
    wait_until("the container to go", lambda: not stack.engine.has_container(f"C.{child}"), 60)


def another(stack: Stack, instance: int, before: str) -> bool:
    found = stack.engine.find(f"C.{instance}")
    return found is not None and found["Id"] != before


def message(renter: Renter, instance: int) -> str:
    return str((renter.stack.instance(instance) or {}).get("status_msg"))


def scheduled(renter: Renter) -> None:
    """A reboot by `--schedule`, due in the next minute or the one after, while the marketplace is killed and back."""
    stack, report = renter.stack, renter.report
    instance = renter.rent("debian")
    renter.at(instance)
    began = stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"]
    due = (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0, microsecond=0)
    words = ("--schedule", "HOURLY", "--day", "*", "--hour", "*", "--start_date", f"{due:%Y-%m-%d %H:%M:%S}")
    said = stack.renter.run("reboot", "instance", str(instance), *words).stdout
    report.check("reboot --schedule", "insert: success" in said, said)
    wait_until("the reboot at once", lambda: stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"] != began, 30)
    stack.wait_status(instance, "running")
    at_once = stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"]
    stack.kill_marketplace()
    stack.start_marketplace()
    left_s = (due - datetime.now(UTC)).total_seconds()
    was_early = becomes(lambda: stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"] != at_once, left_s - 1)
    report.check("a scheduled reboot waits for its time", not was_early)
    is_done = becomes(lambda: stack.engine.inspect(f"C.{instance}")["State"]["StartedAt"] != at_once, 60)
    report.check("and comes then", is_done, stack.renter.run("show", "scheduled-jobs").stdout)
    rows = stack.renter.json("show", "scheduled-jobs")
    deleted = [stack.renter.run("delete", "scheduled-job", str(row["id"])).returncode for row in rows]
    report.check("delete scheduled-job", deleted == [0] and not stack.renter.json("show", "scheduled-jobs"), rows)
    stack.renter_api.call("DELETE", f"/api/v0/instances/{instance}/", {})
    wait_until("the container to go", lambda: not stack.engine.has_container(f"C.{instance}"), 60)


def refusals(renter: Renter) -> None:
    stack, report = renter.stack, renter.report
    status, body = stack.renter_api.call("POST", "/api/v0/ssh/", {"ssh_key": renter.key.read_text()})
    report.check("a private key is refused", (status, body["error"]) == (400, "private_ssh_key"), body)
    report.check("and not kept", len(stack.renter_api.get("/api/v0/ssh/")) == 1)
    instance = renter.rent("debian", "--user", "nobody-here")

    def told() -> str:
        return str((stack.instance(instance) or {}).get("status_msg"))

    report.check("a user that the image lacks is refused", becomes(lambda: "nobody-here" in told(), 30), told())
    report.check("and nothing is left", not stack.engine.has_container(f"C.{instance}"))


def logs(renter: Renter, instance: int, wanted: str) -> str:
    """What `vastai logs` prints, once it has the line."""
    text = ""

    def look() -> bool:
        nonlocal text
        text = renter.stack.renter.run("logs", str(instance)).stdout
        return wanted in text

    becomes(look)
    return text


def becomes(look: Any, timeout_s: float = 20) -> bool:
    try:
        wait_until("it", look, timeout_s, 0.2)
    except TimeoutError:
        return False
    return True


def shows(terminal: Terminal, wanted: str) -> bool:
    try:
        terminal.wait(wanted)
    except TimeoutError:
        return False
    return True
