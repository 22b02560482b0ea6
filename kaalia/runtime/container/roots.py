"""Lets others of kaalia into an instance's files while it runs or is stopped: one view for each contract, shared.

A process of its own (`runtime.view.program`) shows the root; it ends with the last who uses it, with the daemon, and
before the container is started. For an overlay must not be mounted twice: a start ends the view, waits until it is
gone (END_S at most), and is never refused because of it. Who uses it then gets `view_withdrawn`.
"""

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaalia.errors import HostError, WorkloadError
from kaalia.host import outside
from kaalia.host.process import Child

log = logging.getLogger(__name__)

MAKE_S = 5.0
END_S = 5.0
"""Before a start goes on all the same: those who used the view were killed long before that."""
OUTPUT_MAX_BYTES = 512 * 1024
"""Of a command; together with its JSON it fits the answer to the marketplace."""
_ANSWER_MAX_BYTES = 4 * OUTPUT_MAX_BYTES
_PROGRAM = (sys.executable, "-I", "-X", "utf8", "-m", "kaalia.runtime.view.program")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_VOLUME = re.compile(r"/.+/V\.[1-9][0-9]{0,9}/data")
_ALIVE = ("running", "paused")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """The root is `path`, a folder of this machine: links in it may lead anywhere, so whoever goes there confines
    himself first (chroot, openat2), or takes `view.build.VIEW` from the mounts of `pid`, which holds it.
    """

    pid: int

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.pid}/root/view")


class Roots:
    """`own`: the inspection of a contract's container, raising WorkloadError `not_found`. `data_root`: the engine's."""

    def __init__(self, own: Callable[[int], Awaitable[Document]], data_root: Callable[[], Awaitable[str]]) -> None:
        self._own = own
        self._data_root = data_root
        self._homes: dict[int, _Home] = {}

    @asynccontextmanager
    async def open(self, contract_id: int) -> AsyncIterator[View]:
        """The root of a contract's container, created, running or stopped. While it is being started: afterwards.

        When the body is left, and also when it is cancelled, no process may be in the view any more; those that are
        get killed. Raises WorkloadError `view_withdrawn` in the place of that cancellation, `view_unavailable` and
        `not_found`, HostError.
        """
        home = self._homes.setdefault(contract_id, _Home())
        user = _User(asyncio.current_task())
        async with home.lock:
            if home.holder is None:
                home.holder = await _hold(source_of(await self._own(contract_id), await self._data_root()))
            holder = home.holder
            home.users.append(user)
        try:
            yield View(holder.pid)
        except asyncio.CancelledError:
            if user.gives_back():
                raise withdrawn(contract_id) from None
            raise
        finally:
            await home.left(user)

    @asynccontextmanager
    async def folder(self, path: str) -> AsyncIterator[View]:
        """The same for a folder of this machine, such as a volume's. Raises WorkloadError `view_unavailable`."""
        holder = await _hold({"folder": path})
        try:
            yield View(holder.pid)
        finally:
            await holder.end()

    @asynccontextmanager
    async def withheld(self, contract_id: int) -> AsyncIterator[None]:
        """Nobody is in the view from now on, and who comes waits until the body is left. Raises nothing of its own."""
        home = self._homes.setdefault(contract_id, _Home())
        async with home.lock:
            await home.clear(contract_id)
            yield

    def forget(self, contract_id: int) -> None:
        """The container is gone."""
        home = self._homes.get(contract_id)
        if home is not None and not home.lock.locked() and home.holder is None:
            del self._homes[contract_id]

    async def execute(self, contract_id: int, command: str, seconds: float) -> str:
        """What a command prints (`contracts.command`), errors among it. Raises as `open`, and ContractError."""
        async with self.open(contract_id) as view:
            asked = {"holder": view.pid, "command": command, "bytes_max": OUTPUT_MAX_BYTES, "seconds": seconds}
            child = await _start()
            try:
                return str((await _ask(child, asked, seconds + MAKE_S))["text"])
            finally:
                await child.close(END_S)


@dataclass(eq=False, slots=True)
class _User:
    """Who is in a view."""

    task: "asyncio.Task[Any] | None"
    is_withdrawn: bool = False

    def withdraw(self) -> None:
        if not self.is_withdrawn and self.task is not None:
            self.is_withdrawn = True
            self.task.cancel()

    def gives_back(self) -> bool:
        """The cancellation was ours, and nobody else's."""
        return self.is_withdrawn and self.task is not None and self.task.uncancel() == 0


@dataclass(eq=False, slots=True)
class _Home:
    """Of one contract. Whoever makes or ends its view holds the lock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    holder: "_Holder | None" = None
    users: list[_User] = field(default_factory=list)
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    async def left(self, user: _User) -> None:
        self.users.remove(user)
        if self.users:
            return
        self.empty.set()
        if user.is_withdrawn:
            return  # whoever withdrew it holds the lock, and ends it
        async with self.lock:
            if not self.users:
                await self._end()

    async def clear(self, contract_id: int) -> None:
        self.empty.clear()
        for user in self.users:
            user.withdraw()
        try:
            async with asyncio.timeout(END_S):
                if self.users:
                    await self.empty.wait()
        except TimeoutError:
            log.warning("C.%d: its files are still in use, and it is started all the same", contract_id)
        await self._end()

    async def _end(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            await holder.end()


class _Holder:
    """A process that shows a root, and nothing else."""

    def __init__(self, child: Child, pid: int) -> None:
        self._child = child
        self.pid = pid

    async def end(self) -> None:
        """It kills whoever is still there, unmounts and goes. Raises nothing."""
        try:
            answer = json.loads(await self._child.request("end", END_S))
            if not answer.get("ended"):
                log.warning("process %d could not end its view: somebody holds on to it", self.pid)
        except HostError as error:
            log.warning("process %d did not end its view in order: %s %s", self.pid, error, error.problem.evidence)
        finally:
            await self._child.close()


def source_of(container: Document, data_root: str) -> dict[str, Any]:
    """What `view.build.Source` says, by the inspection of a container. Raises WorkloadError `view_unavailable`."""
    container_id = str(container["Id"])
    state = container.get("State") or {}
    driver = container.get("GraphDriver") or {}
    source: dict[str, Any] = {"volumes": _volumes(container)}
    if not _CONTAINER_ID.fullmatch(container_id):
        raise unavailable(f"{container_id!r} is no id of a container")
    if state.get("Status") in _ALIVE and int(state.get("Pid") or 0) > 0:
        return {**source, "process": [int(state["Pid"]), container_id]}
    if driver.get("Name") == "overlay2":
        layer = Path(str((driver.get("Data") or {}).get("UpperDir") or "")).parent
        if not layer.is_absolute() or ".." in layer.parts or layer.parent != Path(data_root) / "overlay2":
            raise unavailable(f"its layer is said to lie in {layer}")
        return {**source, "layer": str(layer)}
    if driver.get("Name") == "btrfs":
        return {**source, "subvolume": [data_root, container_id]}
    raise unavailable(f"the engine keeps it by {driver.get('Name') or 'an image store of containerd'}")


def _volumes(container: Document) -> list[list[str]]:
    """Folders of volumes, and of those without a name that the engine made for this container."""
    return [
        [str(one["Source"]), str(one["Destination"])]
        for one in container.get("Mounts") or []
        if one.get("Type") == "volume" or _VOLUME.fullmatch(str(one.get("Source") or ""))
    ]


def unavailable(why: str) -> WorkloadError:
    return WorkloadError(
        "view_unavailable",
        "cannot look into the instance: its files cannot be shown as it is now",
        remedy="start it and try again; on a stopped one this needs Docker's storage driver overlay2 or btrfs",
        evidence=why,
    )


def withdrawn(contract_id: int) -> WorkloadError:
    return WorkloadError(
        "view_withdrawn",
        f"cannot go on in the files of C.{contract_id}: it is being started or removed",
        remedy="try again when it runs",
    )


async def _hold(source: Mapping[str, Any]) -> _Holder:
    child = await _start()
    try:
        return _Holder(child, int((await _ask(child, {"hold": source}, MAKE_S))["pid"]))
    except BaseException:
        await child.close()
        raise


async def _start() -> Child:
    argv = [*await outside.prefix(), *_PROGRAM]
    return await Child.start(argv, outside.ENVIRONMENT, max_line_bytes=_ANSWER_MAX_BYTES)


async def _ask(child: Child, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await child.request(json.dumps(request), seconds))
    if "problem" in answer:
        raise unavailable(str(answer["problem"]))
    return answer
