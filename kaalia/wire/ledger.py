"""The ledger as the local API tells it: who has which part of the machine, and what is free."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Resource(StrEnum):
    GPU = "gpu"
    PORTS = "ports"
    DISK = "disk"
    CPU = "cpu"
    RAM = "ram"
    SUBNETS = "subnets"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One thing or quantity and its owner, such as `C.51` or `V.901`; None: it is free, and the state says so."""

    name: str
    """UUID of a GPU, `40011/tcp`, a subnet; of quantities the owner. Free ports are one row, named by the range."""
    owner: str | None
    generation: int | None
    since: datetime | None
    state: str
    """Of the owner: what its workload or volume does; `unknown` when the books know no more of it."""
    amount: int = 1
    """Bytes of disk and RAM, thousandths of a core of CPU; of things, how many."""
    used: int | None = None
    """Bytes of disk that the owner fills, as last measured."""
    detail: str = ""
    """Model of the GPU, port inside the container."""


@dataclass(frozen=True, slots=True)
class LedgerView:
    """One resource, in the unit of its rows. `total` and `free` are None while the machine is not known."""

    resource: Resource
    held: int
    total: int | None
    free: int | None
    rows: tuple[LedgerRow, ...]
    kept: int = 0
    """Memory that the machine keeps for itself; not in `total`."""
    unfilled: int | None = None
    """Bytes of the disk that hold no data now, promised or not."""


@dataclass(frozen=True, slots=True)
class LedgerDocument:
    as_of: datetime
    views: tuple[LedgerView, ...]
    """One for each resource."""
