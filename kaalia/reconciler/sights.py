"""What is seen of this machine's workloads: the last complete list, kept fresh by single looks.

Never answers "absent" without proof: before the first list, while the engine is silent, and for a workload that
changed since the last look, the answer is UNKNOWN.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from kaalia.reconciler.seen import Sight
from kaalia.runtime.base import Observed, ObservedState


class Sights:
    """`mark`, then look, then `complete` or `saw` with that mark: news of later than the mark stand."""

    def __init__(self) -> None:
        self._seen: dict[int, Observed] = {}
        self._is_complete = False
        self._doubted: dict[int, int] = {}
        self._changed: dict[int, int] = {}
        self._apart: frozenset[int] = frozenset()
        self._count = 0

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    @property
    def doubted(self) -> frozenset[int]:
        """Changed since the last look: inspect them."""
        return frozenset(self._doubted) - self._apart

    @property
    def apart(self) -> frozenset[int]:
        """Contracts behind which something stands that cannot be read: nothing is known of them."""
        return self._apart

    def of(self, contract_id: int) -> Observed | Sight:
        if not self._is_complete or contract_id in self._doubted or contract_id in self._apart:
            return Sight.UNKNOWN
        return self._seen.get(contract_id, Sight.ABSENT)

    def present(self) -> tuple[Observed, ...]:
        """All that were seen last, doubted ones too."""
        return tuple(self._seen.values())

    def mark(self) -> int:
        """Taken before a look begins."""
        return self._count

    def complete(
        self, found: Iterable[Observed], mark: int, busy: Collection[int], apart: Collection[int] = ()
    ) -> None:
        """A whole list came. Of `busy` contracts, and of those that changed since the mark, it may be outdated.

        `apart`: contracts whose container may be one that cannot be read; one that can be read is known all the same.
        """
        newer = {*busy, *(contract_id for contract_id, at in self._changed.items() if at > mark)}
        fresh = {one.contract_id: self._remember(one) for one in found}
        self._doubted = {contract_id: at for contract_id, at in self._doubted.items() if contract_id in newer}
        for contract_id in newer:
            fresh.pop(contract_id, None)
            if contract_id in self._seen:
                fresh[contract_id] = self._seen[contract_id]
        self._seen = fresh
        self._apart = frozenset(apart) - set(fresh)
        self._changed.clear()
        self._is_complete = True
        for one in fresh.values():
            if _lacks_facts(one) and one.contract_id not in newer:
                self.doubt(one.contract_id)

    def saw(self, contract_id: int, observed: Observed | None, mark: int) -> None:
        """A single look; None: proven absent. An event after the mark asks for another look."""
        if self._doubted.get(contract_id, 0) <= mark:
            self._doubted.pop(contract_id, None)
        self._count += 1
        self._changed[contract_id] = self._count
        if observed is None:
            self._seen.pop(contract_id, None)
        else:
            self._seen[contract_id] = observed

    def doubt(self, contract_id: int) -> None:
        self._count += 1
        self._changed[contract_id] = self._doubted[contract_id] = self._count

    def lose(self) -> None:
        """The engine does not answer: nothing is known until the next whole list."""
        self._is_complete = False

    def _remember(self, listed: Observed) -> Observed:
        """A list may leave out what an earlier look at the same run of the same container told."""
        old = self._seen.get(listed.contract_id)
        if old is None or (old.container_id, old.state) != (listed.container_id, listed.state):
            return listed
        if old.started_at is not None and listed.started_at is not None and old.started_at != listed.started_at:
            return listed
        return replace(
            listed,
            pid=listed.pid or old.pid,
            started_at=listed.started_at or old.started_at,
            finished_at=listed.finished_at or old.finished_at,
            exit_code=old.exit_code if listed.exit_code is None else listed.exit_code,
            oom_killed=listed.oom_killed or old.oom_killed,
        )


def _lacks_facts(observed: Observed) -> bool:
    """Rules about restarts need to know when it ran."""
    if observed.state is ObservedState.RUNNING:
        return observed.started_at is None
    return observed.state is ObservedState.EXITED and observed.finished_at is None
