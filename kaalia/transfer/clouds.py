"""Carries out copies from and to clouds: the machine's rclone in a cell, with the login in memory and an outlet.

The cell sees the holder's files, rclone with what it needs to run, and no network: connections leave by
`transfer.outlet`, which knows no way to this machine or its neighbours.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from kaalia.errors import HostError, Problem
from kaalia.host import ipv6, outside
from kaalia.host.process import KILL_GRACE_S, Program, run
from kaalia.model.copying import CloudLogin, CloudOrder
from kaalia.transfer import plan, rclone
from kaalia.transfer.complaints import Complaints
from kaalia.transfer.plan import Bind, Cell, encode
from kaalia.transfer.serving import Show, Shown, cell_argv, private_file

TELL_S = 5.0
LIMITS = ("MemoryMax=2G", "MemorySwapMax=0", "CPUWeight=20", "TasksMax=128")
"""As of other cells; a program in Go has a thread for each call that waits for a disk."""
OUTLET_LIMITS = (
    *("MemoryMax=1G", "MemorySwapMax=0", "CPUWeight=20", "TasksMax=32"),
    *("NoNewPrivileges=yes", "CapabilityBoundingSet=CAP_SETUID CAP_SETGID"),
)
"""It begins as root, since the program may lie where nobody else reads, and goes on as nobody: the daemon's own sandbox
has no right to that."""
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Of Debian, Fedora, newer Fedora, SUSE, Alpine."""
_PROGRAM = "/bin/rclone"
_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Clouds:
    """`allowed`: networks that a cloud may be in although they are not the internet; `pools`: those of tenants, which
    none is in; `lan`: those that this machine is on.
    """

    def __init__(
        self,
        folder: Path,
        show: Show,
        allowed: Sequence[str] = (),
        pools: Sequence[str] = (),
        lan: Callable[[], Sequence[str]] = ipv6.lan_networks,
        searched: str = _SEARCHED,
    ) -> None:
        self._folder = folder
        self._show = show
        self._allowed = tuple(allowed)
        self._pools = tuple(pools)
        self._lan = lan
        self._searched = searched

    async def check(self) -> Path:
        """Where rclone is. Raises HostError `copy_cloud_unsupported`."""
        found = await asyncio.to_thread(shutil.which, "rclone", path=self._searched)
        if found is None:
            raise HostError(
                "copy_cloud_unsupported",
                "cannot copy from or to a cloud: rclone is not installed on this machine",
                remedy="run rclone inside the instance; the machine's owner can install it: apt install rclone",
            )
        return await asyncio.to_thread(Path(found).resolve)

    async def carry(
        self, order: CloudOrder, login: CloudLogin, tell: Callable[[str], Awaitable[None]]
    ) -> tuple[Problem | None, str]:
        """What went wrong, and how it ended in words. Raises HostError, WorkloadError."""
        told = _Told(login)
        program = await self.check()
        libraries = await _libraries(program)
        ours, theirs = socket.socketpair()
        async with AsyncExitStack() as stack:
            for end in (ours, theirs):
                stack.callback(end.close)
            shown = await stack.enter_async_context(self._show(order.place.holder))
            spec = await asyncio.to_thread(self._prepare, order, shown, program, libraries)
            stack.push_async_callback(asyncio.to_thread, spec.unlink, missing_ok=True)
            try:
                _give(ours, rclone.environment(login))
            except OSError as error:
                raise HostError("copy_unprepared", f"cannot hand on the login of {order.cloud}: {error}") from error
            running = await Program.start(await cell_argv(spec, *LIMITS), told.hear, connection=theirs.fileno())
            stack.push_async_callback(running.stop)
            theirs.close()
            way_out = await Program.start(await self._outlet_argv(), told.hear, connection=ours.fileno())
            stack.push_async_callback(way_out.stop)
            ours.close()
            exit_code = await _watched(running, told, tell)
            await running.said()
            if exit_code is not None and await _is_unfit(way_out):
                raise HostError(
                    "copy_outlet_unfit",
                    f"cannot copy with {order.cloud}: its connections would leave as root, not as nobody",
                    remedy="run the daemon by its systemd unit, or as root with CAP_SETUID and CAP_SETGID",
                    evidence=told.complaints,
                )
        if exit_code is None:
            message = f"cannot copy all with {order.cloud} within {rclone.MAX_S / 3600:.0f} h"
            return Problem("copy_late", message, "copy again: what is there already is left out"), "failed"
        return rclone.problem(order, exit_code, told.complaints), rclone.finished(order, told.progress)

    async def _outlet_argv(self) -> tuple[str, ...]:
        words = plan.outlet_words(self._allowed, self._pools, await asyncio.to_thread(self._lan))
        return (*await outside.prefix(*OUTLET_LIMITS), sys.executable, "-P", "-m", plan.OUTLET, *words)

    def _prepare(self, order: CloudOrder, shown: Shown, program: Path, libraries: Sequence[str]) -> Path:
        bundle = next((one for one in _BUNDLES if Path(one).is_file()), None)
        binds = [
            Bind(str(program), _PROGRAM, runs_programs=True),
            *(Bind(os.path.realpath(one), one, runs_programs=True) for one in libraries),
            *([] if bundle is None else [Bind(os.path.realpath(bundle), rclone.AUTHORITIES)]),
            Bind(shown.folder, rclone.FILES, is_read_only=order.is_upload, process=shown.process),
        ]
        made = Cell(
            binds=tuple(binds),
            files={},
            folders=(),
            argv=rclone.argv(_PROGRAM, order),
            env=rclone.ENV,
            watched=(os.getpid(), *([] if shown.process is None else [shown.process])),
            route=rclone.route(order),
            has_line=True,
            words_after=rclone.words_after(order),
            has_outlet=True,
            reserves_memory=True,
        )
        try:
            return private_file(self._folder / f"{order.copy_id}.json", encode(made).encode())
        except OSError as error:
            raise HostError(
                "copy_unprepared",
                f"cannot prepare a copy of {order.place.holder} in {self._folder}: {error}",
                remedy="free space on the machine's disk, and see that root may write there",
            ) from error


def _give(line: socket.socket, env: dict[str, str]) -> None:
    """What a cell's program gets on no disk: into the socket's buffer. Raises OSError when it does not fit."""
    line.setblocking(False)
    text = json.dumps(env).encode() + b"\n"
    if len(text) > plan.GIVEN_MAX_BYTES or line.send(text) < len(text):
        raise OSError("more than the line takes")


async def _libraries(program: Path) -> tuple[str, ...]:
    """What the loader needs besides; none, where it is linked whole."""
    found = await run(("ldd", str(program)), 10, env=outside.ENVIRONMENT)
    words = [word for line in found.stdout.splitlines() for word in line.split() if word.startswith("/")]
    return tuple(dict.fromkeys(words)) if found.exit_code == 0 else ()


async def _watched(running: Program, told: "_Told", tell: Callable[[str], Awaitable[None]]) -> int | None:
    """Its exit code; None: it took too long."""
    known = ""
    try:
        async with asyncio.timeout(rclone.MAX_S):
            while True:
                try:
                    async with asyncio.timeout(TELL_S):
                        return await running.ended()
                except TimeoutError:
                    if told.progress is not None and known != (known := str(told.progress)):
                        await tell(known)
    except TimeoutError:
        return None


async def _is_unfit(way_out: Program) -> bool:
    """Its cell has ended, and so does it."""
    try:
        async with asyncio.timeout(KILL_GRACE_S):
            return await way_out.ended() == plan.OUTLET_UNFIT
    except TimeoutError:
        return False


class _Told:
    """What rclone says: the newest progress, and its complaints without what is secret."""

    def __init__(self, login: CloudLogin) -> None:
        self._secrets = sorted((one for one in rclone.secrets(login) if len(one) > 3), key=len, reverse=True)
        self.progress: rclone.Progress | None = None
        self._complaints = Complaints()

    def hear(self, line: str) -> None:
        found = rclone.heard(line)
        if isinstance(found, rclone.Progress):
            files = max(found.files, 0 if self.progress is None else self.progress.files)
            self.progress = replace(found, files=files)
        elif found:
            for secret in self._secrets:
                found = found.replace(secret, "***")
            self._complaints.add(found)

    @property
    def complaints(self) -> str:
        return self._complaints.text
