"""Waiting for what another process does: poll until it is true, or fail with what was seen last."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = float(os.environ.get("KAALIA_TEST_PATIENCE", "1"))
"""How many times longer than is asked for: scripts/test sets it, for what is waited for comes late on a busy machine.
Proofs hold to the time that they name."""


def wait_until(what: str, look: Callable[[], T | None], timeout_s: float, every_s: float = 0.05) -> T:
    """Return the first truthy answer of `look`. Raises TimeoutError that names `what` and the last answer."""
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    last: T | None = None
    while time.monotonic() < deadline:
        last = look()
        if last:
            return last
        time.sleep(every_s)
    raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; last seen: {last!r}")
