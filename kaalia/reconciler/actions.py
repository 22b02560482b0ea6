"""What can be done for one contract. Plain records: `diff` chooses one, `execute` does it."""

from dataclasses import dataclass
from enum import StrEnum

from kaalia.contracts.contract import Contract
from kaalia.errors import Problem
from kaalia.model.workload import WorkloadStatus
from kaalia.runtime.base import Observed


class Frees(StrEnum):
    """Which claims a written status gives back."""

    NOTHING = "nothing"
    GPUS = "gpus"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is as it should be, or nothing is known."""


@dataclass(frozen=True, slots=True)
class Record:
    """Write down what is seen or decided; nothing is done to the workload."""

    status: WorkloadStatus
    frees: Frees = Frees.NOTHING


@dataclass(frozen=True, slots=True)
class Launch:
    """Image, ports, container, start."""

    contract: Contract
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Start the container that exists."""

    contract: Contract
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop and start at the renter's request; GPUs stay claimed."""

    contract: Contract
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """`reason` is told to the renter."""

    contract_id: int
    generation: int
    reason: str
    problem: Problem | None = None
    """The renter did not ask for it: why it had to be."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Pull the image of a newer generation, then remove the container of the older one. Network and GPUs stay."""

    contract: Contract
    gpu_uuids: tuple[str, ...]
    before: Observed


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove container and network: the contract is over."""

    contract_id: int
    generation: int


@dataclass(frozen=True, slots=True)
class Clear:
    """A launch broke off before its container was there, and is not to go on: remove its network, then write down."""

    status: WorkloadStatus


@dataclass(frozen=True, slots=True)
class Lose:
    """The container is gone though nobody of ours removed it: its data are lost, and the renter is told."""

    contract_id: int
    generation: int


Action = Nothing | Record | Launch | Start | Restart | Stop | Renew | Remove | Clear | Lose
