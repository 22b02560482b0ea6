"""A private Docker Engine: own data root, sockets, containerd and bridge, gone without a trace at the end.

For tests, proofs, benchmarks and the demo; needs root. Start it under `unshare --net` when no bridge name is given:
two engines would share docker0. With `has_quota` the data root is a btrfs image, so that `--storage-opt size` is real.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.engine_api import EngineApi
from tests.support.waiting import wait_until

DISK_BYTES = 12 * 1024**3
"""Size of the btrfs image; the file is sparse."""
DOCKERD = shutil.which("dockerd") or "/usr/sbin/dockerd"
START_TIMEOUT_S = 60


class PrivateDocker(EngineApi):
    """`start`, `kill` and `start` again, `restart`; `stop` removes every container, mount, process and link."""

    def __init__(
        self,
        root: Path,
        *,
        has_quota: bool = True,
        extra_path: Path | None = None,
        bridge: str | None = None,
        bridge_cidr: str = "172.29.0.1/24",
        options: Sequence[str] = (),
        has_live_restore: bool = True,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        super().__init__(root / "docker.sock")
        self.root = root
        self.data_root = root / "data"
        self.exec_root = root / "exec"
        self.extra_path = extra_path
        self._has_quota = has_quota
        self._disk_bytes = disk_bytes
        self._bridge = bridge
        self._bridge_cidr = bridge_cidr
        self._options = options
        self._settings: dict[str, object] = {"live-restore": has_live_restore}
        self._process: subprocess.Popen[bytes] | None = None
        self._had_docker0 = True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def enforces_disk_size(self) -> bool:
        return self._is_mounted()

    def __enter__(self) -> "PrivateDocker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start dockerd and wait until it answers; also after `kill`."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.data_root.mkdir(exist_ok=True)
        self._write_settings()
        if self._has_quota and not self._is_mounted():
            self._mount_btrfs()
        if self._bridge and not _has_link(self._bridge):
            _run("ip", "link", "add", "name", self._bridge, "type", "bridge")
            _run("ip", "addr", "add", self._bridge_cidr, "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
        if self._process is None:
            self._had_docker0 = _has_link("docker0")
        (self.root / "docker.pid").unlink(missing_ok=True)
        log = (self.root / "dockerd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,  # Ctrl-C is for the program that will stop it in order
            )
        wait_until("dockerd to answer", self.answers, START_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL, as a crash would. Containers live on; `start` finds them again."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """An orderly restart with live-restore."""
        self._end(signal.SIGTERM)
        self.start()

    def send(self, number: signal.Signals) -> None:
        """A signal to dockerd, such as SIGSTOP: it hangs, with its sockets open."""
        assert self._process is not None
        self._process.send_signal(number)

    def configure(self, **settings: object) -> None:
        """Further settings of daemon.json, with _ for -; dockerd, which runs, takes those that it takes by SIGHUP."""
        self._settings |= {name.replace("_", "-"): value for name, value in settings.items()}
        self._write_settings()
        self.send(signal.SIGHUP)

    def _write_settings(self) -> None:
        (self.root / "daemon.json").write_text(json.dumps(self._settings))

    def kill_containerd(self) -> None:
        """SIGKILL; dockerd starts another one by itself."""
        for pid in list(self._processes("containerd")):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End everything that was started here and undo every mount and link. Safe to repeat."""
        if self._process is not None and self._process.poll() is None:
            self.remove_containers()
            self.remove_networks()
            self._end(signal.SIGTERM)
        self._end_leftovers()
        for point in sorted(_mounts_below(self.root), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=False)
        for link in [self._bridge] if self._bridge else [] if self._had_docker0 else ["docker0"]:
            if _has_link(link):
                _run("ip", "link", "delete", link)
        self._had_docker0 = True
        shutil.rmtree(self.root, ignore_errors=True)

    def remove_containers(self) -> None:
        for container in self.request("GET", "/containers/json?all=1"):
            self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")

    def remove_networks(self) -> None:
        for network in self.request("GET", "/networks"):
            if network["Name"] not in {"bridge", "host", "none"}:
                self.request("DELETE", f"/networks/{network['Id']}")

    def log_text(self) -> str:
        return (self.root / "dockerd.log").read_text(errors="replace")

    def _command(self) -> list[str]:
        driver = "btrfs" if self._is_mounted() else "overlay2"
        command = [
            DOCKERD,
            f"--config-file={self.root / 'daemon.json'}",
            f"--data-root={self.data_root}",
            f"--exec-root={self.exec_root}",
            f"--pidfile={self.root / 'docker.pid'}",
            f"--host={self.docker_host}",
            f"--storage-driver={driver}",
        ]
        return [*command, *([f"--bridge={self._bridge}"] if self._bridge else []), *self._options]

    def environment(self) -> dict[str, str]:
        """What dockerd is started with."""
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        return {**os.environ, "PATH": f"{self.extra_path}:{path}" if self.extra_path else path}

    def answers(self) -> bool:
        """It answers now. Raises RuntimeError when dockerd has ended by itself."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"dockerd ended with {self._process.returncode}:\n{self.log_text()[-3000:]}")
        try:
            return bool(self.request("GET", "/version", timeout_s=5))
        except OSError:
            return False

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        containerd = list(self._processes("containerd"))
        self._process.send_signal(with_signal)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # dockerd's containerd dies with it; the next dockerd would take a live or unreaped one for its own.
        wait_until("containerd to end", lambda: not any(_is_alive(pid) for pid in containerd), 10)

    def _end_leftovers(self) -> None:
        """Shims and what they run, if dockerd could not remove the containers any more."""
        for name in ("containerd", "containerd-shim-runc-v2"):
            for pid in list(self._processes(name)):
                for process in (*_children(pid), pid):
                    _kill(process)

    def _processes(self, name: str) -> Iterator[int]:
        """Processes of this engine by the program's name: their command line names our exec root."""
        for pid in _pids():
            command = _command_line(pid)
            is_named = bool(command) and Path(command[0]).name == name
            if is_named and any(str(self.exec_root) in word for word in command):
                yield pid

    def _is_mounted(self) -> bool:
        return str(self.data_root) in _mounts_below(self.root)

    def _mount_btrfs(self) -> None:
        """A btrfs image as data root; where the kernel has no loop devices or no btrfs, overlay2 must do."""
        image = self.root / "data.img"
        with image.open("wb") as file:
            file.truncate(self._disk_bytes)
        try:
            _run("mkfs.btrfs", "-q", str(image))
            _run("mount", "-o", "loop", str(image), str(self.data_root))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no disk quota: cannot mount btrfs: {error}", file=sys.stderr)
            image.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _has_link(name: str) -> bool:
    return Path("/sys/class/net", name).exists() or (
        subprocess.run(["ip", "link", "show", name], check=False, capture_output=True).returncode == 0
    )


def _mounts_below(folder: Path) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    found = []
    for child in _pids():
        try:
            fields = Path("/proc", str(child), "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(child)
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(f"process {pid} to end", lambda: not _is_alive(pid), 5)


def _is_alive(pid: int) -> bool:
    """False once it is gone. Reaps it if it is ours: under `unshare --pid` this process may be everyone's parent."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return Path("/proc", str(pid)).exists()
