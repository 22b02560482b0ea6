"""Nonces seen of late: the same signed request is not taken twice. In memory, and bounded for each machine.

After a restart nothing is remembered: a copy of a request of the last minutes passes once more. Nothing a
machine can send does more when it is sent twice, so that costs nothing.
"""

from collections import OrderedDict
from datetime import datetime

from kaalia.wire.error import ApiError
from kaalia.wire.protocol import MAX_CLOCK_SKEW_S

NONCES_PER_MACHINE = 4096
"""In ten minutes: a daemon needs about 30, one that streams statuses some hundreds."""


class Nonces:
    """Only take nonces of proven signatures: strangers must not fill this."""

    def __init__(self) -> None:
        self._seen: dict[int, OrderedDict[str, float]] = {}

    def take(self, machine_id: int, nonce: str, created_at: datetime, now: datetime) -> None:
        """Remember, or raise ApiError `nonce_replayed` (401), `too_many_requests` (429)."""
        seen = self._seen.setdefault(machine_id, OrderedDict())
        self._forget(seen, now)
        if nonce in seen:
            raise ApiError(401, "nonce_replayed", "cannot accept the request: it was sent before")
        if len(seen) >= NONCES_PER_MACHINE:
            raise ApiError(
                429,
                "too_many_requests",
                f"cannot accept the request: machine {machine_id} sent {len(seen)} of them in a few minutes",
                retry_after_s=60,
            )
        seen[nonce] = created_at.timestamp() + MAX_CLOCK_SKEW_S

    @staticmethod
    def _forget(seen: OrderedDict[str, float], now: datetime) -> None:
        # In order of arrival; a clock that runs late or early keeps a few of them longer than needed.
        while seen and next(iter(seen.values())) < now.timestamp():
            seen.popitem(last=False)
