"""Copies between instances and volumes: rsync in a cell that sees both, or one and a line to another machine.

Each is told at its beginning, some seconds apart while it goes on, and at its end. What a crash of the daemon cut off
is told by the next one; rsync goes on where it was when the renter asks again.
"""

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from kaalia.clock import Clock
from kaalia.contracts import copying
from kaalia.errors import ContractError, HostError, KaaliaError, Problem
from kaalia.host.process import Program
from kaalia.model.copying import CopyOrder, CopyState, CopyStatus, Holder
from kaalia.service import Tasks, answer_anyway
from kaalia.store import copies, outbox
from kaalia.store.changes import Topic
from kaalia.store.database import Database, Transaction
from kaalia.transfer import away, rsync, sshd
from kaalia.transfer.plan import Bind, Cell, encode
from kaalia.transfer.serving import Show, Shown, cell_argv, private_file
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind

log = logging.getLogger(__name__)

TELL_S = 5.0
_CUT_OFF = "was cut off by a restart of the machine's daemon; copy again, it goes on where it was"
AT_ONCE_MAX = 4
"""On one machine; others wait."""


@dataclass(frozen=True, slots=True)
class Tools:
    """`kit`: asks for the access kit's folder. `folder`: of root alone. `key`: by copy id, private, for its line."""

    kit: Callable[[], Path]
    folder: Path
    show: Show
    key: Callable[[str], bytes]


class Copier:
    """`start` and `cancel` are called by whoever works off the marketplace's requests."""

    def __init__(self, database: Database, clock: Clock, tools: Tools) -> None:
        self._database = database
        self._clock = clock
        self._tools = tools
        self._running = Tasks()
        self._orders: dict[str, CopyOrder] = {}
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def recover(self) -> None:
        """Tell what an earlier daemon left half done, and remove its files."""
        await asyncio.to_thread(shutil.rmtree, self._tools.folder, ignore_errors=True)
        for order in await self._database.read(copies.under_way):
            await self._end(order, CopyState.INTERRUPTED, _CUT_OFF)

    async def close(self) -> None:
        """What goes on is cut off, and told by the next daemon."""
        await self._running.close()

    async def start(self, order: CopyOrder) -> None:
        """In the background. Raises ContractError, WorkloadError `kit_missing`."""
        copying.check_order(order)
        if order.away is not None:
            away.check(order.away)
        if any((one.source, one.target) == (order.source, order.target) for one in self._orders.values()):
            message = f"cannot copy {order.source.path} of {order.source.holder} again: that copy goes on already"
            raise ContractError("copy_running", message, remedy="wait for its end, or `vastai cancel copy`")
        await asyncio.to_thread(self._tools.kit)
        await self._database.transaction(lambda tx: copies.put(tx, order))
        self._orders[order.copy_id] = order
        self._running.start(order.copy_id, answer_anyway(f"copy {order.copy_id[:8]}", self._carry_out(order), _nothing))

    @property
    def targets(self) -> frozenset[Holder]:
        """On this machine, of what goes on."""
        return frozenset(order.target.holder for order in self._orders.values() if order.away is None)

    async def cancel(self, target: Holder, problem: Problem | None = None) -> int:
        """End all copies to a holder; how many. With a `problem`, which is told: those that end on this machine."""
        found = [order for order in self._orders.values() if order.target.holder == target]
        if problem is not None:
            found = [order for order in found if order.away is None]
        state, text = (CopyState.CANCELLED, "was cancelled") if problem is None else (CopyState.FAILED, "failed")
        for order in found:
            self._orders.pop(order.copy_id, None)  # what asks again meanwhile finds none
            self._running.cancel(order.copy_id)
            await self._end(order, state, text, problem)
        return len(found)

    async def _carry_out(self, order: CopyOrder) -> None:
        problem: Problem | None = None
        try:
            await self._tell(order, CopyState.RUNNING, "begins")
            async with self._slots:
                problem = await self._copy(order)
        except KaaliaError as error:
            problem = error.problem
        finally:
            self._orders.pop(order.copy_id, None)
        if problem is None:
            await self._end(order, CopyState.DONE, "finished")
        else:
            log.info("copy to %s: %s %s", order.target.holder, problem.message, problem.evidence)
            await self._end(order, CopyState.FAILED, "failed", problem)

    async def _copy(self, order: CopyOrder) -> Problem | None:
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
                exit_code = await self._watched(order, program, told)
            finally:
                await program.stop()
        return rsync.problem(order, exit_code, told.last)

    async def _watched(self, order: CopyOrder, program: Program, told: "_Lines") -> int:
        known = ""
        while True:
            try:
                async with asyncio.timeout(TELL_S):
                    return await program.ended()
            except TimeoutError:
                if told.progress is not None and known != (known := str(told.progress)):
                    await self._tell(order, CopyState.RUNNING, known)

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

    async def _tell(self, order: CopyOrder, state: CopyState, text: str, problem: Problem | None = None) -> None:
        await self._database.transaction(lambda tx: self._put(tx, order, state, text, problem), Topic.OUTBOX)

    async def _end(self, order: CopyOrder, state: CopyState, text: str, problem: Problem | None = None) -> None:
        def work(tx: Transaction) -> None:
            copies.forget(tx, order.copy_id)
            self._put(tx, order, state, text, problem)

        await self._database.transaction(work, Topic.OUTBOX)

    def _put(
        self, tx: Transaction, order: CopyOrder, state: CopyState, text: str, problem: Problem | None = None
    ) -> None:
        """For the renters of both ends, who are one."""
        source, target = order.source, order.target
        words = f"copy from {source.holder}:{source.path} to {target.holder}:{target.path}: {text}"
        now = self._clock.now()
        status = CopyStatus(order.copy_id, target.holder, state, now, words, problem)
        for holder in dict.fromkeys((target.holder, source.holder)):
            outbox.add(tx, MessageKind.COPY, document.encode(replace(status, holder=holder)), now)


class _Lines:
    """What rsync and ssh say: the newest progress, and the last lines of the rest."""

    def __init__(self) -> None:
        self.progress: rsync.Progress | None = None
        self._rest: list[str] = []

    def hear(self, line: str) -> None:
        found = rsync.progress(line)
        if found is not None:
            self.progress = found
        else:
            self._rest = [*self._rest, line][-rsync.EVIDENCE_LINES :]

    @property
    def last(self) -> str:
        return "\n".join(self._rest)


def _nothing() -> None:
    return None
