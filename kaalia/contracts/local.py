"""Contracts that the machine makes with itself, to test what it rents out: they go the way of every contract.

The arbiter gives them GPUs that nobody else wants and takes them back, the ledger holds what they use, the reconciler
starts and removes them. They have numbers of their own, so that a container without a contract still shows what it is;
no marketplace hears of them, and none can give such a number.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.model.workload import WorkloadSpec

LOCAL_FIRST = 10**12
"""From here on. A marketplace counts from 1."""


def is_local(contract_id: int) -> bool:
    return contract_id >= LOCAL_FIRST


def own_test(contract_id: int, spec: WorkloadSpec, now: datetime, lasts: timedelta) -> Contract:
    """A contract of the lowest rank. It is over after `lasts`, whoever forgets it."""
    return Contract(
        contract_id=contract_id,
        generation=1,
        kind=ContractKind.SELFTEST,
        desired=Desired.RUNNING,
        spec=spec,
        price_usd_per_hour=Decimal(0),
        start_at=now,
        end_at=now + lasts,
    )
