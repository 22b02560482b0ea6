"""`vastai copy` in an image of one kind: by the renter's machine, running and stopped, and to another instance."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tests.proofs.report import Report
from tests.support.stack import Stack
from tests.support.waiting import wait_until

BIG_BYTES = 5_000_000
ENDS = ("finished", "failed", "cut off")


class Copying:
    """`key`: the renter's private key, by which he is known."""

    def __init__(self, stack: Stack, report: Report, key: Path) -> None:
        self._stack, self._report, self._key = stack, report, key

    def prove(self, kind: str, instance: int, rent: Callable[[], int]) -> None:
        """`rent`: another instance of this kind."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            mine = _tree(folder / "mine")
            self._there_and_back(f"{kind}: copy", instance, mine, folder / "back")
            self._stack.renter.run("stop", "instance", str(instance))
            self._stack.wait_status(instance, "stopped")
            self._there_and_back(f"{kind}: copy of a stopped instance", instance, mine, folder / "stopped")
            self._stack.renter.run("start", "instance", str(instance))
            self._stack.wait_status(instance, "running")
            self._between(kind, instance, rent(), mine, folder / "far")

    def _there_and_back(self, what: str, instance: int, mine: Path, back: Path) -> None:
        place = f"C.{instance}:/copied/{back.name}/"
        self._copy(f"local:{mine}/", f"C.{instance}:/copied/")  # rsync makes one folder at a time
        up = self._copy(f"local:{mine}/", place)
        self._report.check(f"{what}, up", "speedup is" in up.stdout, up.stdout[-300:] + up.stderr[-300:])
        down = self._copy(place, f"local:{back}")
        self._report.check(f"{what}, down", "speedup is" in down.stdout, down.stdout[-300:] + down.stderr[-300:])
        self._report.check(f"{what}, the same files", _same(mine, back))

    def _between(self, kind: str, one: int, two: int, mine: Path, back: Path) -> None:
        self._stack.wait_status(two, "running")
        begun = self._stack.renter.run("copy", f"C.{one}:/copied/back/", f"C.{two}:/far/away/")
        self._report.check(f"{kind}: copy to another", "copy initiated" in begun.stdout, begun.stdout + begun.stderr)

        def told() -> str:
            return str((self._stack.instance(two) or {}).get("status_msg"))

        wait_until("the end of the copy", lambda: any(end in told() for end in ENDS), 60, 0.3)
        self._report.check(f"{kind}: its end is told", "finished" in told(), told())
        self._copy(f"C.{two}:/far/away/", f"local:{back}")
        self._report.check(f"{kind}: the same files there", _same(mine, back))
        self._stack.renter_api.call("DELETE", f"/api/v0/instances/{two}/", {})
        wait_until("the container to go", lambda: not self._stack.engine.has_container(f"C.{two}"), 60)

    def _copy(self, source: str, target: str) -> CompletedProcess[str]:
        return self._stack.renter.run("copy", source, target, "-i", str(self._key))


def _tree(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "data").write_bytes(os.urandom(BIG_BYTES))
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "link").symlink_to("/etc/shadow")
    return folder


def _same(one: Path, other: Path) -> bool:
    command = ["diff", "-r", "--no-dereference", str(one), str(other)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
