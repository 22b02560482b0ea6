"""The newest speed test, an order of one, how far one is, and why the last one failed."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import TypeAdapter

from kaalia.contracts import traffic as rules
from kaalia.contracts.contract import OWN_KINDS
from kaalia.model.speed import MeasuredSpeed, SpeedFailure, SpeedOrder, SpeedProgress
from kaalia.model.workload import WorkloadState
from kaalia.store import contracts, traffic, workloads
from kaalia.store.database import Transaction
from kaalia.wire import document

SOURCE = "speed"
"""Of conditions: why there is no newer result."""

T = TypeVar("T")

_RESULT = document.adapter(MeasuredSpeed)
_ORDER = document.adapter(SpeedOrder)
_PROGRESS = document.adapter(SpeedProgress)
_FAILURE = document.adapter(SpeedFailure)
_AWAKE = frozenset(
    {
        *(WorkloadState.PULLING, WorkloadState.CREATING, WorkloadState.STARTING),
        *(WorkloadState.RUNNING, WorkloadState.STOPPING, WorkloadState.UNKNOWN),
    }
)
"""States in which a workload may use the line."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Who would notice a test. `mbps`: their traffic with the internet, both ways, as far as it is known."""

    running: int
    mbps: float


def tenants(tx: Transaction, now: datetime) -> Tenants:
    """The owner's own jobs are not counted: they are his, and his is the order too."""
    awake = awake_tenants(tx)
    rates = [rules.rate(tally, now) for number, tally in traffic.all_tallies(tx).items() if number in awake]
    return Tenants(len(awake), sum((one.up + one.down) * 8 / 1e6 for one in rates if one is not None))


def awake_tenants(tx: Transaction) -> frozenset[int]:
    """The contracts whose workloads run, or are about to."""
    own = {one.contract.contract_id for one in contracts.all_contracts(tx) if one.contract.kind in OWN_KINDS}
    rows = workloads.all_workloads(tx).items()
    return frozenset(number for number, one in rows if one.state in _AWAKE and number not in own)


def put_result(tx: Transaction, found: MeasuredSpeed) -> None:
    _put(tx, "result", _RESULT, found)


def get_result(tx: Transaction) -> MeasuredSpeed | None:
    return _get(tx, "result", _RESULT)


def put_order(tx: Transaction, order: SpeedOrder | None) -> None:
    """None: nothing is ordered, and what was is forgotten with its secret."""
    _put(tx, "order", _ORDER, order)


def get_order(tx: Transaction) -> SpeedOrder | None:
    return _get(tx, "order", _ORDER)


def put_progress(tx: Transaction, progress: SpeedProgress | None) -> None:
    _put(tx, "progress", _PROGRESS, progress)


def get_progress(tx: Transaction) -> SpeedProgress | None:
    return _get(tx, "progress", _PROGRESS)


def withdraw(tx: Transaction, order: SpeedOrder) -> None:
    """Nobody wants this one any longer: who is at it sees that its progress is gone, and breaks off."""
    if get_order(tx) == order:
        put_order(tx, None)
    put_progress(tx, None)


def put_failure(tx: Transaction, failure: SpeedFailure | None) -> None:
    _put(tx, "failure", _FAILURE, failure)


def get_failure(tx: Transaction) -> SpeedFailure | None:
    return _get(tx, "failure", _FAILURE)


def _put(tx: Transaction, name: str, adapter: TypeAdapter[T], value: T | None) -> None:
    if value is None:
        tx.execute("DELETE FROM speed WHERE name = ?", (name,))
    else:
        text = adapter.dump_json(value).decode()
        tx.execute("INSERT OR REPLACE INTO speed (name, document) VALUES (?, ?)", (name, text))


def _get(tx: Transaction, name: str, adapter: TypeAdapter[T]) -> T | None:
    row = tx.execute("SELECT document FROM speed WHERE name = ?", (name,)).fetchone()
    return None if row is None else adapter.validate_json(row["document"])
