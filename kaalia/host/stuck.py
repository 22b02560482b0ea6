"""Commands that even SIGKILL did not end: they wait in the kernel, for a disk or a driver that does not answer.

A look that is repeated each minute would leave one more each time, until this process may start nothing at all
(TasksMax of its unit), not even what tenants need. So a command is refused while the same one is stuck.
"""

import asyncio
from collections.abc import Sequence

_STUCK: dict[tuple[str, ...], tuple[int, "asyncio.Future[None]"]] = {}


def leave(argv: Sequence[str], pid: int, exited: "asyncio.Future[None]") -> None:
    """It was killed, and has not ended. `exited`: done when it has."""
    _STUCK[tuple(argv)] = (pid, exited)


def pid_of(argv: Sequence[str]) -> int | None:
    """The process of this very command that is stuck yet; None: there is none."""
    key = tuple(argv)
    known = _STUCK.get(key)
    if known is None:
        return None
    pid, exited = known
    if exited.done() or exited.get_loop().is_closed():
        del _STUCK[key]
        return None
    return pid
