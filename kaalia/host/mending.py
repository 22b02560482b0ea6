"""What a person would do with a shell to mend a machine, shown word for word first: commands, and whole files.

For the command line as root, never for the daemon. A file is replaced whole or not at all, and what it was is kept.
"""

import asyncio
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import run

TIMEOUT_S = 120.0
"""apt-mark waits for no lock; systemctl reload ends with the service's own answer."""


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]

    @property
    def shown(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class WriteFile:
    """`kept_as`: where the old file goes, if there was one. `mode`: of a new file; an old one's stays.

    `based_on`: what it held when this was planned; another content since then is not overwritten.
    """

    path: Path
    text: str
    kept_as: Path | None = None
    mode: int = 0o644
    based_on: bytes | None = None

    @property
    def shown(self) -> str:
        kept = f" (the old one is kept as {self.kept_as})" if self.kept_as else ""
        lines = "".join(f"\n      {line}" for line in self.text.splitlines())
        return f"write {self.path}{kept}:{lines}"


Step = Command | WriteFile


async def carry_out(steps: tuple[Step, ...]) -> None:
    """All of them in order. When one fails, or somebody breaks it off, files are as they were. Raises HostError."""
    written: list[tuple[WriteFile, bytes | None]] = []
    is_done = False
    try:
        for step in steps:
            if isinstance(step, Command):
                await run(step.argv, TIMEOUT_S, check=True)
            else:
                written.append((step, await asyncio.to_thread(_replace, step)))
        is_done = True
    finally:
        for step, before in reversed(written if not is_done else ()):
            await asyncio.to_thread(_take_back, step, before)


def _replace(step: WriteFile) -> bytes | None:
    """What the file held before; None: there was none."""
    try:
        before = step.path.read_bytes() if step.path.exists() else None
        if step.based_on is not None and (before or b"") != step.based_on:
            raise HostError(
                "fix_outdated",
                f"cannot write {step.path}: it was changed since this was planned",
                remedy="look at it, and run kaalia doctor --fix again",
            )
        mode = step.path.stat().st_mode & 0o7777 if before is not None else step.mode
        if before is not None and step.kept_as is not None:
            _put(step.kept_as, before, mode)
        step.path.parent.mkdir(parents=True, exist_ok=True)
        _put(step.path, step.text.encode(), mode)
    except OSError as error:
        raise HostError("fix_unwritable", f"cannot write {step.path}: {error.strerror or error}") from error
    return before


def _take_back(step: WriteFile, before: bytes | None) -> None:
    if before is None:
        step.path.unlink(missing_ok=True)
    else:
        _put(step.path, before, step.path.stat().st_mode & 0o7777)


def _put(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f".{path.name}.kaalia-new")
    with new.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
