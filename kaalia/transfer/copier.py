"""Copies that this machine carries out itself: between instances and volumes, and from and to clouds.

Each is told at its beginning, some seconds apart while it goes on, and at its end. What a crash of the daemon cut off
is told by the next one; rsync and rclone go on where they were when the renter asks again.
"""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable

from kaalia.clock import Clock
from kaalia.contracts import cloud, copying
from kaalia.errors import ContractError, KaaliaError, Problem
from kaalia.model.copying import CloudLogin, CloudOrder, CopyOrder, CopyState, CopyStatus, Holder
from kaalia.service import Tasks, answer_anyway
from kaalia.store import copies, outbox
from kaalia.store.changes import Topic
from kaalia.store.database import Database, Transaction
from kaalia.transfer import away
from kaalia.transfer.between import Between, Tell, Tools
from kaalia.transfer.clouds import Clouds
from kaalia.transfer.turns import HOLDER_ORDERS_MAX, ORDERS_MAX, Turns
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind

log = logging.getLogger(__name__)

_CUT_OFF = "was cut off by a restart of the machine's daemon; copy again, it goes on where it was"
Order = CopyOrder | CloudOrder
Work = Callable[[Tell], Awaitable[tuple[Problem | None, str]]]
"""Does a copy: what went wrong, and its end in words."""


class Copier:
    """`start` and `cancel` are called by whoever works off the marketplace's requests."""

    def __init__(self, database: Database, clock: Clock, tools: Tools, clouds: Clouds) -> None:
        self._database = database
        self._clock = clock
        self._folder = tools.folder
        self._between = Between(tools)
        self._clouds = clouds
        self._running = Tasks()
        self._orders: dict[str, Order] = {}
        self._turns = {CopyOrder: Turns(), CloudOrder: Turns()}
        """Of their own for clouds, which may be slow for a day: a copy between instances never waits for one."""

    async def recover(self) -> None:
        """Tell what an earlier daemon left half done, and remove its files."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
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
        await self._between.check()

        async def work(tell: Tell) -> tuple[Problem | None, str]:
            return await self._between.carry(order, tell), "finished"

        await self._begin(order, work)

    async def start_cloud(self, order: CloudOrder, fetch: Callable[[], Awaitable[CloudLogin]]) -> None:
        """The same with a cloud. The login is fetched when all else is well, and kept while the copy goes on.

        Raises ContractError, HostError `copy_cloud_unsupported`, and what `fetch` raises.
        """
        copying.check_order(order)
        self._check_new(order)
        await self._clouds.check()
        told = await fetch()
        login = cloud.check_login(told.kind, told.options)
        if login.kind != cloud.check_cloud(order.cloud):
            message = f"cannot copy with {order.cloud}: its login is one for {login.kind}"
            raise ContractError("cloud_login_invalid", message, remedy="tell the marketplace's operator")

        async def work(tell: Tell) -> tuple[Problem | None, str]:
            return await self._clouds.carry(order, login, tell)

        await self._begin(order, work)

    async def _begin(self, order: Order, work: Work) -> None:
        self._check_new(order)
        self._orders[order.copy_id] = order  # what is asked meanwhile counts it
        try:
            await self._database.transaction(lambda tx: copies.put(tx, order))
        except BaseException:
            self._orders.pop(order.copy_id, None)
            raise
        if order.copy_id not in self._orders:
            return  # cancelled meanwhile
        doing = self._carry_out(order, work)
        self._running.start(order.copy_id, answer_anyway(f"copy {order.copy_id[:8]}", doing, _nothing))

    def _check_new(self, order: Order) -> None:
        if any(one.what == order.what for one in self._orders.values()):
            message = f"cannot {order.what} again: that copy goes on already"
            raise ContractError("copy_running", message, remedy="wait for its end, or `vastai cancel copy`")
        same = [one for one in self._orders.values() if type(one) is type(order)]
        for holder in order.holders:
            if sum(holder in one.holders for one in same) >= HOLDER_ORDERS_MAX:
                raise ContractError(
                    "copy_busy",
                    f"cannot {order.what} now: {HOLDER_ORDERS_MAX} other copies of {holder} go on or wait",
                    remedy="wait for the end of one, or cancel it",
                )
        if len(same) >= ORDERS_MAX:
            raise ContractError(
                "copy_busy",
                f"cannot {order.what} now: {ORDERS_MAX} others go on or wait on this machine",
                remedy="copy again later",
            )

    @property
    def targets(self) -> frozenset[Holder]:
        """On this machine, of what goes on."""
        return frozenset(one for order in self._orders.values() if (one := order.lands_here) is not None)

    async def cancel(self, target: Holder, problem: Problem | None = None) -> int:
        """End all copies to a holder; how many. With a `problem`, which is told: those that end on this machine."""
        if problem is not None:
            found = [order for order in self._orders.values() if order.lands_here == target]
        else:
            found = [order for order in self._orders.values() if order.goes_to == target]
        return await self._cancel(found, problem)

    async def cancel_clouds(self, holder: Holder) -> int:
        """End all copies between a holder and clouds; how many."""
        orders = list(self._orders.values())
        return await self._cancel(
            [order for order in orders if isinstance(order, CloudOrder) and order.place.holder == holder]
        )

    async def _cancel(self, found: list[Order], problem: Problem | None = None) -> int:
        state, text = (CopyState.CANCELLED, "was cancelled") if problem is None else (CopyState.FAILED, "failed")
        for order in found:
            self._orders.pop(order.copy_id, None)  # what asks again meanwhile finds none
            self._running.cancel(order.copy_id)
        for order in found:  # not before: none shall get the turn of another one of them
            await self._end(order, state, text, problem)
        return len(found)

    async def _carry_out(self, order: Order, work: Work) -> None:
        problem: Problem | None = None
        text = ""

        async def tell(words: str) -> None:
            await self._tell(order, CopyState.RUNNING, words)

        try:
            async with self._turns[type(order)].taken(order.holders, lambda: tell("waits for its turn")):
                await tell("begins")
                problem, text = await work(tell)
        except KaaliaError as error:
            problem = error.problem
        finally:
            self._orders.pop(order.copy_id, None)
        if problem is None:
            await self._end(order, CopyState.DONE, text)
        else:
            log.info("%s: %s %s", order.what, problem.message, problem.evidence)
            await self._end(order, CopyState.FAILED, "failed", problem)

    async def _tell(self, order: Order, state: CopyState, text: str, problem: Problem | None = None) -> None:
        await self._database.transaction(lambda tx: self._put(tx, order, state, text, problem), Topic.OUTBOX)

    async def _end(self, order: Order, state: CopyState, text: str, problem: Problem | None = None) -> None:
        def work(tx: Transaction) -> None:
            copies.forget(tx, order)
            self._put(tx, order, state, text, problem)

        await self._database.transaction(work, Topic.OUTBOX)

    def _put(self, tx: Transaction, order: Order, state: CopyState, text: str, problem: Problem | None = None) -> None:
        """For the renters of both ends, who are one."""
        now = self._clock.now()
        for holder in order.holders:
            status = CopyStatus(order.copy_id, holder, state, now, f"{order.what}: {text}", problem)
            outbox.add(tx, MessageKind.COPY, document.encode(status), now)


def _nothing() -> None:
    return None
