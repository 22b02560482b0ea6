"""Waiting for what another process does: poll until it is true, or fail with what was seen last."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(what: str, look: Callable[[], T | None], timeout_s: float, every_s: float = 0.05) -> T:
    """Return the first truthy answer of `look`. Raises TimeoutError that names `what` and the last answer."""
    deadline = time.monotonic() + timeout_s
    last: T | None = None
    while time.monotonic() < deadline:
        last = look()
        if last:
            return last
        time.sleep(every_s)
    raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; last seen: {last!r}")
