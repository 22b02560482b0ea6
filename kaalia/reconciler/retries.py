"""Which actions wait before another try, and which are given up. In memory: a restarted daemon tries afresh."""

from dataclasses import dataclass

from kaalia.errors import KaaliaError, UnreachableError
from kaalia.reconciler.actions import Action, Launch, Renew, Restart, Start

TRANSIENT = frozenset(
    {
        "claim_exceeds",
        "claim_taken",
        "engine_conflict",
        "network_busy",
        "network_exists",
        "pull_interrupted",
        "pull_stalled",
        "registry_rate_limited",
        "registry_unreachable",
        "state_disk_full",
        "state_unavailable",
    }
)
"""Launches and starts that end with one of these are tried again."""
MACHINE = frozenset(
    {"command_failed", "command_stuck", "command_timeout", "ports_failed", "volume_missing", "walls_failed"}
)
"""What mounting a volume ends with while its disk is not there, as in the first minutes of a boot, and what a firewall
that does not take the tenant's walls and ports ends with.

Launches try again as for the above. A start goes on trying: its renter's data wait behind it, and nobody would ask.
"""
RETRY_S = (5.0, 15.0, 45.0, 120.0)
"""Waits before attempts 2 to 5. Then a launch is given up; a stop, and all else that goes on, keeps the last pace."""
POSTPONED_S = 2.0
UNEXPECTED_S = 60.0
"""After an error that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class _Wait:
    kind: type[Action]
    attempts: int
    until_s: float


class Retries:
    """By contract. Another kind of action (stop after launch) never waits for the one that did not work."""

    def __init__(self) -> None:
        self._waits: dict[int, _Wait] = {}

    def may_try(self, contract_id: int, action: Action, now_s: float) -> bool:
        wait = self._waits.get(contract_id)
        return wait is None or wait.kind is not type(action) or now_s >= wait.until_s

    def begin(self, contract_id: int, action: Action, now_s: float) -> None:
        """Before the action: if it ends in an unforeseen way, this pause stands."""
        self._waits[contract_id] = _Wait(type(action), self._attempts(contract_id, action), now_s + UNEXPECTED_S)

    def failed(self, contract_id: int, action: Action, now_s: float) -> float:
        """Count a fruitless attempt; the wait until the next one, in seconds."""
        attempts = self._attempts(contract_id, action) + 1
        wait_s = RETRY_S[min(attempts, len(RETRY_S)) - 1]
        self._waits[contract_id] = _Wait(type(action), attempts, now_s + wait_s)
        return wait_s

    def postpone(self, contract_id: int, action: Action, now_s: float) -> None:
        """The engine did not answer: no fault of the action, so it does not count."""
        self._waits[contract_id] = _Wait(type(action), self._attempts(contract_id, action), now_s + POSTPONED_S)

    def is_hopeless(self, contract_id: int, action: Action, error: KaaliaError) -> bool:
        """A launch or start that another try would not help, or that had them all."""
        if not isinstance(action, Launch | Start | Restart | Renew):
            return False
        if error.code in MACHINE and not isinstance(action, Launch | Renew):
            return False
        is_transient = isinstance(error, UnreachableError) or error.code in TRANSIENT | MACHINE
        return not is_transient or self._attempts(contract_id, action) >= len(RETRY_S)

    def clear(self, contract_id: int) -> None:
        self._waits.pop(contract_id, None)

    def next_s(self, now_s: float) -> float | None:
        """Monotonic time of the next try; one whose time has come waits for something else."""
        return min((wait.until_s for wait in self._waits.values() if wait.until_s > now_s), default=None)

    def _attempts(self, contract_id: int, action: Action) -> int:
        wait = self._waits.get(contract_id)
        return wait.attempts if wait is not None and wait.kind is type(action) else 0
