"""Contracts of the machine with itself, from the wish to the proof that nothing is left: for all that tests it.

A test writes what it wants into the store and reads how it goes there; the reconciler does the work. Whatever happens
to the test, to the daemon or to Docker, `sweep` at the next start removes what it left.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta

from kaalia.clock import Clock
from kaalia.contracts.lease import LeaseTime
from kaalia.errors import ContractError, WorkloadError
from kaalia.model.workload import WorkloadSpec, WorkloadState, WorkloadStatus
from kaalia.store import local_contracts, workloads
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

GAVE_WAY = "test_gave_way"
LOOK_S = 1.0
"""A bell ends the wait sooner."""
PATIENCE_S = 2.0
"""How long a contract may stay without GPUs: those of somebody who is about to go are free in a moment."""


class LocalWork:
    """The contracts of one purpose."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        lease_time: Callable[[], LeaseTime],
        purpose: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease_time = lease_time
        self._purpose = purpose
        self._changes = changes
        self._bell = changes.subscribe(Topic.WORKLOADS)

    async def begin(self, specs: Iterable[WorkloadSpec], lasts: timedelta) -> list[int]:
        """A contract for each; their numbers."""
        wanted, now = list(specs), self._lease_time().earliest_at
        return await self._database.transaction(
            lambda tx: local_contracts.make(tx, self._purpose, wanted, now, lasts), Topic.CONTRACTS
        )

    async def running(self, contract_id: int, within_s: float) -> WorkloadStatus:
        """Wait until it runs.

        Raises ContractError `test_gave_way` when somebody of higher rank has what it needs, else WorkloadError: why it
        did not come up.
        """
        deadline_s = self._clock.monotonic_s() + within_s
        waits_since_s: float | None = None
        while True:
            row, now_s = await self._row(contract_id), self._clock.monotonic_s()
            if row is not None and row.state is WorkloadState.RUNNING:
                return row
            if row is not None and row.state in (WorkloadState.FAILED, WorkloadState.REJECTED, WorkloadState.EXITED):
                raise _not_up(contract_id, row)
            if row is not None and row.state in (WorkloadState.STOPPING, WorkloadState.STOPPED):
                raise _gave_way(contract_id, row)
            if row is None or row.state is not WorkloadState.WAITING:
                waits_since_s = None
            elif waits_since_s is None:
                waits_since_s = now_s
            elif now_s - waits_since_s >= PATIENCE_S and row.problem is None:
                raise _gave_way(contract_id, row)
            if now_s >= deadline_s:
                raise _not_up(contract_id, row)
            await wait(self._bell, LOOK_S)

    async def still(self, contract_id: int) -> None:
        """It runs yet. Raises as `running` does."""
        row = await self._row(contract_id)
        if row is not None and row.state is WorkloadState.RUNNING:
            return
        if row is None or row.state in (WorkloadState.EXITED, WorkloadState.FAILED):
            raise _not_up(contract_id, row)
        raise _gave_way(contract_id, row)

    async def end(self, contract_ids: Iterable[int]) -> None:
        """Ask for the removal of container and network."""
        wanted, now = list(contract_ids), self._lease_time().earliest_at
        await self._database.transaction(lambda tx: local_contracts.end(tx, wanted, now), Topic.CONTRACTS)

    async def gone(self, contract_ids: Iterable[int], within_s: float) -> None:
        """Wait until those that were ended are proven gone. Raises WorkloadError `test_not_gone`."""
        left, deadline_s = list(contract_ids), self._clock.monotonic_s() + within_s
        while left := [number for number in left if await self._is_there(number)]:
            if self._clock.monotonic_s() >= deadline_s:
                raise WorkloadError(
                    "test_not_gone",
                    f"cannot end the test C.{left[0]}: its container is not proven gone within {within_s:g} s",
                    remedy="see what Docker says: journalctl -u docker; docker ps --all",
                )
            await wait(self._bell, LOOK_S)

    async def _is_there(self, contract_id: int) -> bool:
        row = await self._row(contract_id)
        return row is None or row.state is not WorkloadState.ENDED

    async def sweep(self) -> bool:
        """End whatever there is, and forget what is proven gone. True: nothing is left."""
        now = self._lease_time().earliest_at
        found = await self._database.read(lambda tx: local_contracts.of(tx, self._purpose))
        if not found:
            return True

        def work(tx: Transaction) -> list[int]:
            local_contracts.end(tx, found, now)
            return local_contracts.forget_ended(tx, found)

        left = await self._database.transaction(work, Topic.CONTRACTS)
        return not left

    async def news(self, timeout_s: float) -> None:
        """Wait until something happens to some workload."""
        await wait(self._bell, timeout_s)

    async def _row(self, contract_id: int) -> WorkloadStatus | None:
        return await self._database.read(lambda tx: workloads.get(tx, contract_id))


def _gave_way(contract_id: int, row: WorkloadStatus) -> ContractError:
    why = row.status_msg or row.state
    return ContractError(GAVE_WAY, f"cannot go on with the test C.{contract_id}: {why}", remedy="it is tried again")


def _not_up(contract_id: int, row: WorkloadStatus | None) -> WorkloadError:
    if row is not None and row.problem is not None:
        known = row.problem
        return WorkloadError(known.code, known.message, remedy=known.remedy, evidence=known.evidence)
    state = "nothing was begun" if row is None else f"{row.state}: {row.status_msg}"
    return WorkloadError("test_not_up", f"cannot test by C.{contract_id}: it does not run ({state})")
