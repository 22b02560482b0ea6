"""What ssh costs beside a plain launch of the same image, and how fast it is beside a host's own sshd.

- reached: from sending the request to the end of the first `ssh HOST true`, over the time of a plain launch (runtype
  args) of the same image until the marketplace knows that it runs; in turns, for images of four kinds;
- bulk: logins, and bytes through `ssh HOST 'cat > /dev/null'` and back, against an sshd of this machine on loopback,
  in turns;
- idle: memory of all processes of an instance that nobody is logged in to.

Prints tables and one JSON line last, with the bars. Run by `scripts/bench access [--rounds N] [--mb N]`.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.launch import rest, told
from kaalia.units import MIB
from tests.support.kinds import KINDS, import_kinds, name_of
from tests.support.scene import scene
from tests.support.sessions import login
from tests.support.ssh import Ssh, new_key
from tests.support.stack import Stack, free_port
from tests.support.waiting import wait_until

REACHED_BAR_S = 0.3
BULK_BAR = 0.9
IDLE_BAR_MB = 3.0
_SSHD = "HostKey {0}/host_key\nAuthorizedKeysFile {0}/renter.pub\nPort {1}\nListenAddress 127.0.0.1\nUsePAM no\n"
_SSHD_MORE = "StrictModes no\nPidFile none\nPermitRootLogin yes\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mb", type=int, default=1024, help="of one transfer, in MiB")
    options = parser.parse_args()
    with scene(gpus=None) as (stack, _), tempfile.TemporaryDirectory() as folder:
        import_kinds(stack.engine)
        stack.list_machine()
        key, public = new_key(Path(folder), "renter")
        stack.renter.run("create", "ssh-key", public)
        reached = [compare(stack, key, kind, options.rounds) for kind in KINDS]
        transfers = bulk(stack, key, options.rounds, options.mb)
    table(reached, transfers)
    bars = {"reached_s": REACHED_BAR_S, "bulk": BULK_BAR, "idle_mb": IDLE_BAR_MB}
    print(json.dumps({"benchmark": "access", "bars": bars, **vars(options), "reached": reached, "bulk": transfers}))
    return 0


def compare(stack: Stack, key: Path, kind: str, rounds: int) -> dict[str, Any]:
    """Turns of one launch each way; medians, and the median of each turn's difference."""
    turn(stack, key, kind)
    turns = [turn(stack, key, kind) for _ in range(rounds)]

    def median(name: str) -> float:
        return round(statistics.median(one[name] for one in turns), 3)

    return {
        "kind": kind,
        **{f"{name}_s": median(name) for name in ("plain", "running", "reached", "later")},
        "over_s": round(statistics.median(one["reached"] - one["plain"] for one in turns), 3),
        "idle_mb": round(max(one["idle_mb"] for one in turns), 3),
    }


def turn(stack: Stack, key: Path, kind: str) -> dict[str, float]:
    plain_s, _, instance = launch(stack, kind, runtype="args", args=[] if kind == "distroless" else ["sleep", "9999"])
    destroy(stack, instance)
    running_s, started, instance = launch(stack, kind, runtype="ssh_direc ssh_proxy")
    row = stack.instance(instance)
    if row is None or not row["ports"]:
        raise RuntimeError(f"the log said running, the marketplace says {row}")
    ssh = Ssh(key, int(row["ports"]["22/tcp"][0]["HostPort"]))
    while (done := ssh.run("true")).returncode:
        if time.perf_counter() - started > 30:
            raise RuntimeError(f"no ssh to {kind}: {done.stderr}")
    reached_s = time.perf_counter() - started
    later_s = login_s(ssh)
    memory_mb = idle(stack, instance)
    destroy(stack, instance)
    key.with_name("known_hosts").unlink(missing_ok=True)
    return {"plain": plain_s, "running": running_s, "reached": reached_s, "later": later_s, "idle_mb": memory_mb}


def launch(stack: Stack, kind: str, **body: Any) -> tuple[float, float, int]:
    """Seconds until the marketplace knows that it runs, when the request was sent, and the instance."""
    offer = wait_until("an offer", stack.rentable_offer, 30)
    started = time.perf_counter()
    instance = stack.rent(offer, image=name_of(kind), disk=1, **body)
    told(stack, f"contract {instance} is running")
    return time.perf_counter() - started, started, instance


def destroy(stack: Stack, instance: int) -> None:
    """Until networks stand ready again: making them is to slow nobody's turn down, as in `benchmarks.launch`."""
    stack.destroy(instance)
    rest(stack.engine)


def idle(stack: Stack, instance: int) -> float:
    """Resident memory of all processes of the instance, in MB, once no session is left."""

    def resident() -> list[int]:
        rows = stack.engine.request("GET", f"/containers/C.{instance}/top?ps_args=-o%20pid,rss,comm")["Processes"]
        return [int(row[1]) for row in rows]

    wait_until("the session to end", lambda: len(resident()) == 1, 20)
    return sum(resident()) * 1024 / 1e6


def bulk(stack: Stack, key: Path, rounds: int, size_mb: int) -> dict[str, Any]:
    """Megabytes a second each way: medians, and the median ratio of the turns."""
    offer = wait_until("an offer", stack.rentable_offer, 30)
    instance = stack.rent(offer, image=name_of("debian"), disk=1, runtype="ssh_direc ssh_proxy")
    ours = login(stack, key, instance)
    with host_sshd(key) as theirs:
        transfer(ours, size_mb), transfer(theirs, size_mb)
        logins = [(login_s(ours), login_s(theirs)) for _ in range(rounds)]
        turns = [(transfer(ours, size_mb), transfer(theirs, size_mb)) for _ in range(rounds)]
    destroy(stack, instance)
    found: dict[str, Any] = {
        "login_s": round(statistics.median(one for one, _ in logins), 3),
        "host_login_s": round(statistics.median(other for _, other in logins), 3),
    }
    for at, way in enumerate(("up", "down")):
        found[f"{way}_mb_s"] = round(statistics.median(one[at] for one, _ in turns))
        found[f"{way}_host_mb_s"] = round(statistics.median(other[at] for _, other in turns))
        found[f"{way}_ratio"] = round(statistics.median(one[at] / other[at] for one, other in turns), 3)
    return found


def login_s(ssh: Ssh) -> float:
    """Seconds of `ssh HOST true`."""
    started = time.perf_counter()
    ssh.run("true")
    return time.perf_counter() - started


def transfer(ssh: Ssh, size_mb: int) -> tuple[float, float]:
    """Megabytes a second up and down, the login included."""
    command = ["ssh", *ssh.flags("-p"), ssh.place]
    started = time.perf_counter()
    with subprocess.Popen(["head", "-c", f"{size_mb}M", "/dev/zero"], stdout=subprocess.PIPE) as source:
        subprocess.run([*command, "cat > /dev/null"], stdin=source.stdout, check=True)
    middle = time.perf_counter()
    subprocess.run([*command, f"head -c {size_mb}M /dev/zero"], stdout=subprocess.DEVNULL, check=True)
    ended = time.perf_counter()
    moved = size_mb * MIB / 1e6
    return moved / (middle - started), moved / (ended - middle)


@contextmanager
def host_sshd(key: Path) -> Iterator[Ssh]:
    """This machine's own sshd on loopback, for the same key."""
    folder, port = key.parent, free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key")], check=True)
    (folder / "sshd_config").write_text(_SSHD.format(folder, port) + _SSHD_MORE)
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]) as process:
        try:
            ssh = Ssh(key, port)
            wait_until("the host's sshd", lambda: ssh.run("true").returncode == 0, 10)
            yield ssh
        finally:
            process.terminate()


def table(reached: list[dict[str, Any]], transfers: dict[str, Any]) -> None:
    print(f"{'image':>10} {'plain':>7} {'ssh runs':>9} {'reached':>8} {'over':>7} {'bar':>5}", end="")
    print(f" {'login':>7} {'idle MB':>8} {'bar':>4}")
    for row in reached:
        print(f"{row['kind']:>10} {row['plain_s']:>7.3f} {row['running_s']:>9.3f} {row['reached_s']:>8.3f}", end="")
        print(
            f" {row['over_s']:>7.3f} {REACHED_BAR_S:>5} {row['later_s']:>7.3f} {row['idle_mb']:>8.3f} {IDLE_BAR_MB:>4}"
        )
    print(f"a login: {transfers['login_s']} s, by the host's sshd {transfers['host_login_s']} s")
    for way in ("up", "down"):
        ours, theirs, ratio = (transfers[f"{way}{name}"] for name in ("_mb_s", "_host_mb_s", "_ratio"))
        print(f"{way}: {ours} MB/s, the host's sshd {theirs} MB/s, ratio {ratio}, bar {BULK_BAR}")


if __name__ == "__main__":
    raise SystemExit(main())
