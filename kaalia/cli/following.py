"""How a command follows what it ordered: it asks the daemon again and again, until that is over or takes too long."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.2


def follow(
    ask: Callable[[], T],
    goes_on: Callable[[T], bool],
    within_s: float,
    *,
    progress: Callable[[T], object] = lambda _: None,
    show: Callable[[T], None] = lambda _: None,
    poll_s: float = POLL_S,
) -> T:
    """The first answer that is the end of it, or the last one in time.

    `progress`: what of an answer moves on; each step of it begins `within_s` anew. `show`: gets each answer before the
    last.
    """
    deadline_s, reached = time.monotonic() + within_s, object()
    while goes_on(found := ask()) and time.monotonic() < deadline_s:
        if (now := progress(found)) != reached:
            deadline_s, reached = time.monotonic() + within_s, now
        show(found)
        time.sleep(poll_s)
    return found
