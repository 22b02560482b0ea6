"""A real PostgreSQL server of the tests' own, on a unix socket in a folder of its own; nothing of it survives."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")
"""Nobody pulls the plug on a test."""


class PostgreSQL:
    """Gives out empty databases, by URLs that SQLAlchemy knows."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._made = programs, folder, 0

    def new_database(self) -> str:
        self._made += 1
        name = f"market{self._made}"
        self._run("createdb", "--host", str(self._folder), name)
        return f"postgresql+asyncpg://kaalia:none@/{name}?host={self._folder}"

    def _run(self, program: str, *args: str) -> None:
        command = [str(self._programs / program), "--username", "kaalia", *args]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)


def programs() -> Path | None:
    """Where the newest server's programs are; None: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[4]))
    return found[-1].parent if found else None


@contextmanager
def serving(found: Path) -> Iterator[PostgreSQL]:
    """`found`: its programs. It refuses to run as root, so it runs as nobody then."""
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="kaalia-pg-"))
    try:
        shutil.chown(folder, user)
        data, control = folder / "data", (str(found / "pg_ctl"), "--pgdata", str(folder / "data"), "--wait", "--silent")
        options = " ".join(f"-c {one}" for one in ("listen_addresses=''", f"unix_socket_directories={folder}", *_FAST))

        def run(*command: str) -> None:
            nowhere = subprocess.DEVNULL
            subprocess.run(command, check=True, timeout=WAIT_S, user=user, cwd=folder, stdin=nowhere, stdout=nowhere)

        run(str(found / "initdb"), "--pgdata", str(data), "--username", "kaalia", "--auth", "trust", "--no-sync")
        run(*control, "--log", str(folder / "log"), "--options", options, "start")
        try:
            yield PostgreSQL(found, folder)
        finally:
            run(*control, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
