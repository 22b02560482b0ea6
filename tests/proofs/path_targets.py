"""Those who work among an instance's files when its renter asks for it, as `scripts/prove paths` attacks them."""

import hashlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from tests.support.hostile import Outside
from tests.support.rest import Rest
from tests.support.ssh import Ssh
from tests.support.stack import Stack

REFUSED = "REFUSED"
"""What an answer begins with that was no try: nothing was asked of the files."""
_NOT_SERVED = frozenset({5, 10, 12, 30, 35, 127, 255})
"""Exit codes of rsync for which no file was looked at: no session, no module, no time."""


class Target(Protocol):
    """One of them, on one instance."""

    @property
    def name(self) -> str: ...

    def attacks(self, path: str, outside: Outside) -> Sequence[Callable[[], str]]:
        """Tries to read, list, write or remove by this path; each gives all that came back."""
        ...

    def walks(self, folder: str, outside: Outside) -> Sequence[Callable[[], str]]:
        """Tries that take their time in a folder which changes meanwhile."""
        ...


@dataclass(frozen=True)
class Execute:
    """`vastai execute`, by the requests that it sends."""

    stack: Stack
    instance_id: int
    name: str = "execute"

    def attacks(self, path: str, outside: Outside) -> Sequence[Callable[[], str]]:
        quoted, inner = shlex.quote(path), shlex.quote(f"{path.rstrip('/')}/{outside.named}")
        turn = len(path) % 3
        reading = (f"ls -la -- {quoted}", f"ls -lR -- {quoted}", f"du -a -- {quoted}")[turn]
        removing = (f"rm -rf -- {inner}", f"rm -rfv -- {inner}", f"rm -d -- {inner}")[turn]
        return [partial(self.run, reading), partial(self.run, removing)]

    def walks(self, folder: str, outside: Outside) -> Sequence[Callable[[], str]]:
        commands = (f"rm -rf {folder}/x/{outside.named}", f"ls -lR {folder}", f"du -a {folder}", f"ls -la {folder}/x/")
        return [partial(self.run, command) for command in commands]

    def run(self, command: str) -> str:
        api = self.stack.renter_api
        status, body = api.call("PUT", f"/api/v0/instances/command/{self.instance_id}/", {"command": command})
        if status != 200:
            return f"{REFUSED} {status} {body}"
        told = str(body["result_url"]).removeprefix(self.stack.url)
        text = str(Rest(self.stack.url).call("GET", told, timeout_s=15)[1])
        return f"{REFUSED} {text}" if text.startswith(("kaalia:", "None")) else text


@dataclass(frozen=True)
class Rsync:
    """`vastai copy`: rsync as the client runs it, but for options that make the other side follow links.

    `holder`: `C.51`, or `V.1` whose root is at `mount` of the paths.
    """

    stack: Stack
    holder: str
    key: Path
    mount: str = ""

    @property
    def name(self) -> str:
        return f"copy {self.holder[0]}"

    def attacks(self, path: str, outside: Outside) -> Sequence[Callable[[], str]]:
        if not path.startswith(self.mount):
            return []
        inner = path.removeprefix(self.mount)
        means = (self.list, self.take, self.put, self.wipe)
        turn = hashlib.sha256(path.encode(errors="surrogateescape")).digest()[0] % len(means)
        return [partial(means[turn], inner, outside)]

    def walks(self, folder: str, outside: Outside) -> Sequence[Callable[[], str]]:
        means = (self.list, self.take, self.put, self.wipe)
        return [partial(one, path, outside) for path in (f"{folder}/", f"{folder}/x/") for one in means]

    def list(self, path: str, _: Outside) -> str:
        return self._rsync("-rL", "--list-only", "--exclude=/*/*/*/", self._at(path))

    def take(self, path: str, outside: Outside) -> str:
        """Copy it here; files that hold what is outside are told by name."""
        with tempfile.TemporaryDirectory() as folder:
            # Links to the root in the root have no end.
            said = self._rsync("-rL", "--max-size=64k", "--exclude=/*/*/*/", self._at(path), f"{folder}/")
            taken = [one for one in Path(folder).rglob("*") if one.is_file() and not one.is_symlink()]
            read = [str(one) for one in taken if outside.secret.encode() in one.read_bytes()]
        return f"{said}\n{outside.secret} was read: {read}" if read else said

    def put(self, path: str, outside: Outside) -> str:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, outside.named).write_text("overwritten")
            return self._rsync("-rK", "--inplace", f"{folder}/", f"{self._at(path).rstrip('/')}/")

    def wipe(self, path: str, outside: Outside) -> str:
        only = ("--delete", f"--include={outside.named}", "--exclude=*")
        with tempfile.TemporaryDirectory() as folder:
            return self._rsync("-rK", *only, f"{folder}/", f"{self._at(path).rstrip('/')}/")

    def _at(self, path: str) -> str:
        return f"vastai_kaalia@127.0.0.1::{self.holder}/{path}"

    def _rsync(self, *words: str) -> str:
        body = {"client_id": "me", "src_id": self.holder, "dst_id": None, "src_path": "/root", "dst_path": "x"}
        status, door = self.stack.renter_api.call("PUT", "/api/v0/commands/rsync/", body, timeout_s=20)
        if status != 200:
            return f"{REFUSED} {status} {door}"
        shell = " ".join(["ssh", *Ssh(self.key, int(door["src_port"])).flags("-p")])
        try:
            done = subprocess.run(
                ["rsync", "--timeout=20", "-e", shell, *words], capture_output=True, timeout=40, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{REFUSED} rsync {words} did not end"
        said = (done.stdout + done.stderr).decode(errors="replace")
        return f"{REFUSED} {done.returncode}: {said}" if done.returncode in _NOT_SERVED else said
