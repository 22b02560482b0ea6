"""Carries out copies between instances and volumes: rsync in a cell that sees both, or one and a line to elsewhere."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError, Problem
from kaalia.host.process import Program
from kaalia.model.copying import CopyOrder
from kaalia.transfer import away, rsync, sshd
from kaalia.transfer.complaints import Complaints
from kaalia.transfer.plan import Bind, Cell, encode
from kaalia.transfer.serving import Show, Shown, cell_argv, private_file

TELL_S = 5.0
Tell = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tools:
    """`kit`: asks for the access kit's folder. `folder`: of root alone. `key`: by copy id, private, for its line."""

    kit: Callable[[], Path]
    folder: Path
    show: Show
    key: Callable[[str], bytes]


class Between:
    """`carry` does one copy, to its end."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def check(self) -> None:
        """Raises WorkloadError `kit_missing`."""
        await asyncio.to_thread(self._tools.kit)

    async def carry(self, order: CopyOrder, tell: Tell) -> Problem | None:
        """What went wrong; None: all is copied. Raises HostError, WorkloadError."""
        told = _Lines()
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(self._tools.show(order.source.holder))
            if order.away is None:
                target = await stack.enter_async_context(self._tools.show(order.target.holder))
                ours, theirs = socket.socketpair()
                stack.callback(ours.close)
            else:
                target = None
                key = self._tools.key(order.copy_id)
                line = away.line(order.away, self._tools.folder, order.copy_id, key, told.hear)
                theirs = await stack.enter_async_context(line)
            spec = await asyncio.to_thread(self._prepare, order, source, target)
            stack.push_async_callback(asyncio.to_thread, spec.unlink, missing_ok=True)
            argv = await cell_argv(spec)
            program = await Program.start(argv, told.hear, connection=theirs.fileno())
            theirs.close()
            try:
                exit_code = await _watched(program, told, tell)
                await program.said()
            finally:
                await program.stop()
        return rsync.problem(order, exit_code, told.complaints)

    def _prepare(self, order: CopyOrder, source: Shown, target: Shown | None) -> Path:
        binds = [
            Bind(str(self._tools.kit()), sshd.KIT, runs_programs=True),
            Bind(source.folder, rsync.SOURCE, process=source.process),
        ]
        if target is not None:
            binds.append(Bind(target.folder, rsync.TARGET, is_read_only=False, process=target.process))
        shown = [one.process for one in (source, target) if one is not None and one.process is not None]
        made = Cell(
            binds=tuple(binds),
            files={rsync.BRIDGE: rsync.BRIDGE_TEXT},
            folders=(),
            argv=rsync.argv(order),
            env={"PATH": f"{sshd.KIT}/bin", "LC_ALL": "C"},
            watched=(os.getpid(), *shown),
            route=rsync.route(order),
            has_line=True,
            words_after=rsync.words_after(order),
        )
        try:
            return private_file(self._tools.folder / f"{order.copy_id}.json", encode(made).encode())
        except OSError as error:
            raise HostError(
                "copy_unprepared",
                f"cannot prepare a copy to {order.target.holder} in {self._tools.folder}: {error}",
                remedy="free space on the machine's disk, and see that root may write there",
            ) from error


async def _watched(program: Program, told: "_Lines", tell: Tell) -> int:
    known = ""
    while True:
        try:
            async with asyncio.timeout(TELL_S):
                return await program.ended()
        except TimeoutError:
            if told.progress is not None and known != (known := str(told.progress)):
                await tell(known)


class _Lines:
    """What rsync and ssh say: the newest progress, and the rest."""

    def __init__(self) -> None:
        self.progress: rsync.Progress | None = None
        self._complaints = Complaints()

    def hear(self, line: str) -> None:
        found = rsync.progress(line)
        if found is not None:
            self.progress = found
        else:
            self._complaints.add(line)

    @property
    def complaints(self) -> str:
        return self._complaints.text
