"""Serves one connection: shows the holder's files in a cell, in which the kit's sshd lets rsync at them."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host import outside
from kaalia.host.process import Program
from kaalia.model.copying import Holder
from kaalia.transfer import sshd
from kaalia.transfer.door import Access
from kaalia.transfer.plan import PROGRAM, Bind, Cell, encode

log = logging.getLogger(__name__)

LIMITS = ("MemoryMax=1536M", "MemorySwapMax=0", "CPUWeight=20", "TasksMax=32")
"""Of a cell as a whole, where systemd runs it; of its processes see `cell`. Tenants have a CPUWeight of 100."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a holder's files are: a folder of the machine, or of the mounts of `process`, and as long as that lives."""

    folder: str
    process: int | None = None


Show = Callable[[Holder], AbstractAsyncContextManager[Shown]]
"""A holder's files for as long as the context lasts. Raises WorkloadError."""


class Serving:
    """`kit`: asks for the access kit's folder. `folder`: of root alone. `host_key`: a private key in OpenSSH's form."""

    def __init__(self, kit: Callable[[], Path], folder: Path, host_key: bytes, show: Show) -> None:
        self._kit = kit
        self._folder = folder
        self._host_key = host_key
        self._show = show
        self._numbers = 0

    def check(self) -> None:
        """Raises WorkloadError `kit_missing`."""
        self._kit()

    async def serve(self, holder: Holder, access: Access, connection: int, let_in: Callable[[str], None]) -> None:
        """To the end of the session; `let_in` is called with the key that was proven. Raises HostError, WorkloadError.

        As fingerprint: `contracts.copying.fingerprint`.
        """
        self._numbers += 1
        path = self._folder / f"{holder}.{self._numbers}.json"
        async with self._show(holder) as shown, AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, path.unlink, missing_ok=True)
            spec = await asyncio.to_thread(self._prepare, path, holder, access, shown)
            argv = await cell_argv(spec)

            def hear(line: str) -> None:
                if line.startswith(sshd.LET_IN):
                    let_in(line.rsplit(maxsplit=1)[-1])
                # What strangers do is told to who looks for it.
                log.log(logging.INFO if line.startswith(sshd.TOLD) else logging.DEBUG, "copies of %s: %s", holder, line)

            program = await Program.start(argv, hear, None, connection)
            try:
                await program.ended()
            finally:
                await program.stop()

    def _prepare(self, path: Path, holder: Holder, access: Access, shown: Shown) -> Path:
        """The cell's file, of one connection alone: one that is slow brings back no keys that were withdrawn."""
        kit = self._kit()
        parts = [line for line in (kit / "etc" / "sshd_config").read_text().splitlines() if line.startswith("Sshd")]
        found = Cell(
            binds=(
                Bind(str(kit), sshd.KIT, runs_programs=True),
                Bind(str(self._folder / "host_key"), sshd.HOST_KEY),
                Bind(shown.folder, sshd.FILES, is_read_only=access.is_read_only, process=shown.process),
            ),
            files=sshd.files(holder, access.keys, parts, is_read_only=access.is_read_only),
            folders=("/run/sshd",),
            argv=sshd.ARGV,
            env=sshd.ENV,
            watched=(os.getpid(), *([] if shown.process is None else [shown.process])),
        )
        try:
            private_file(self._folder / "host_key", self._host_key)
            return private_file(path, encode(found).encode())
        except OSError as error:
            raise HostError(
                "copy_unprepared",
                f"cannot prepare copies of {holder} in {self._folder}: {error}",
                remedy="free space on the machine's disk, and see that root may write there",
            ) from error


async def cell_argv(spec: Path, *limits: str) -> tuple[str, ...]:
    return (*await outside.prefix(*(limits or LIMITS)), sys.executable, "-P", "-m", PROGRAM, str(spec))


def private_file(path: Path, content: bytes) -> Path:
    """Whole or not at all; readable by root alone. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        # Connections that come together write in threads of their own.
        new = path.with_name(f".{path.name}.{threading.get_ident()}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        new.rename(path)
    return path
