"""The seam between rules and hands: what a runtime is asked to do, and what it says it sees.

Every verb is idempotent: repeating it after a crash, a lost answer or a time-out is safe.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from kaalia.contracts.contract import Contract
from kaalia.contracts.slicing import Share
from kaalia.contracts.volume import Volume
from kaalia.errors import Problem
from kaalia.model.machine import Engine
from kaalia.model.traffic import Counter, Reading
from kaalia.model.volume import VolumeBackend
from kaalia.model.workload import PortBinding, PortRequest
from kaalia.model.workload import Protocol as PortProtocol


@dataclass(frozen=True, slots=True)
class BindMount:
    """A volume's folder on this machine, and where the container sees it."""

    volume_id: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Placement:
    """A contract with everything this machine has granted it: enough to create the workload."""

    machine: str
    """The owner of what is created: see `runtime.labels.machine_name`."""
    contract: Contract
    gpu_uuids: tuple[str, ...]
    ports: tuple[PortBinding, ...]
    subnet: str
    """CIDR of the contract's own bridge network."""
    share: Share
    env: tuple[tuple[str, str], ...]
    """The final environment: the spec's, plus what only the machine knows."""
    mounts: tuple[BindMount, ...] = ()


class ObservedState(StrEnum):
    """Docker's own words; never lumped together."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


ALIVE = (ObservedState.RUNNING, ObservedState.PAUSED, ObservedState.RESTARTING)
"""It has processes, or will have some in a moment: it uses its GPUs."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A workload that exists on this machine and bears the labels of our machine."""

    contract_id: int
    generation: int
    name: str
    container_id: str
    state: ObservedState
    gpu_uuids: tuple[str, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    end_at: datetime | None = None
    pid: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """What is seen right after a start."""

    observed: Observed
    was_running: bool = False
    """It ran already, by an earlier request."""


@dataclass(frozen=True, slots=True)
class Present:
    """What one contract has at the engine, in the engine's own words: its container (None: only a network is left)."""

    contract_id: int
    container_id: str | None = None
    generation: int = 0
    state: ObservedState | None = None
    gpu_uuids: tuple[str, ...] = ()
    """Built into the container."""
    promised: frozenset[tuple[int, PortProtocol]] = frozenset()
    """Host ports that its labels promise."""
    published: frozenset[tuple[int, PortProtocol]] = frozenset()
    """Host ports that lead to it now; none while it does not run."""
    subnets: tuple[str, ...] = ()
    is_cut_off: bool = False
    """It runs, and what holds its network does not."""


@dataclass(frozen=True, slots=True)
class SetApart:
    """A container that names our machine but cannot be taken for a workload. It may be a tenant's: never touched."""

    name: str
    container_id: str
    contract_ids: frozenset[int]
    """Whose it may be, by its name and its labels."""
    problem: Problem


@dataclass(frozen=True, slots=True)
class Found:
    """All that bears the labels of our machine."""

    workloads: tuple[Observed, ...] = ()
    set_apart: tuple[SetApart, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says of itself."""

    image_id: str
    exposed_ports: tuple[PortRequest, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image that the engine holds. `tags`: every name it has here, whoever gave it."""

    image_id: str
    tags: tuple[str, ...]
    size_bytes: int
    in_use: bool
    """Some container, running or not, was made from it."""

    @property
    def name(self) -> str:
        return self.tags[0] if self.tags else self.image_id[:19]


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Bytes of the engine's data root, by owner: images (shared layers count for each), writable layers, builds."""

    images: tuple[EngineImage, ...]
    instances: tuple[tuple[int, int], ...]
    """(contract id, bytes): the container's own layer, and volumes without a name that only it mounts."""
    foreign_bytes: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials for one pull. Held in memory only; `repr` hides the password."""

    registry: str
    username: str
    password: str = field(repr=False)


ANY_CONTRACT = 0
"""An event that names no contract: events may have been missed, look at everything."""

Progress = Callable[[str], None]
"""Called with one line of progress, at most a few times a second."""


class Runtime(Protocol):
    """Runs workloads. Raises WorkloadError; `engine_unavailable` means: nothing is known, do nothing."""

    async def engine(self) -> Engine:
        """Facts of the engine. Raises WorkloadError `engine_unavailable` when it does not answer."""
        ...

    async def image(self, reference: str) -> ImageFacts | None:
        """The image if it is present on this machine."""
        ...

    async def pull(self, reference: str, login: RegistryLogin | None, progress: Progress) -> ImageFacts:
        """Pull; concurrent pulls of one reference are one pull."""
        ...

    async def create(self, placement: Placement) -> str:
        """Create network and container, not started; returns the container id. Existing equal one is adopted."""
        ...

    async def start(self, contract_id: int) -> Started:
        """Start. Already running is success, and told: whoever asked for that start may have asked for less."""
        ...

    async def stop(self, contract_id: int, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after the grace. Not running or absent is success."""
        ...

    async def discard(self, contract_id: int) -> None:
        """Remove the container alone: its network and its ports wait for the next one. Absent is success."""
        ...

    async def remove(self, contract_id: int) -> None:
        """Remove container and network. Absent is success."""
        ...

    async def authorize(self, contract: Contract, chain: str | None = None, *, is_older: bool = False) -> None:
        """The contract's keys, and no others, may log in from now on; a workload that runs is not disturbed.

        `chain`: the certificate of its Jupyter, PEM; None: the one that it has stays. `is_older`: what runs is of an
        older generation, and keeps the kinds of access that it has. Raises HostError.
        """
        ...

    async def notebook(self, contract_id: int) -> str | None:
        """What is noted inside of how Jupyter is doing; None: nothing. The renter may have written it himself."""
        ...

    async def observe(self) -> Found:
        """Everything of this machine: a complete list, or an error, never a part."""
        ...

    async def inspect(self, contract_id: int) -> Observed | None:
        """One workload, None when it is proven absent. Raises `labels_unreadable` for what `observe` sets apart."""
        ...

    async def logs(self, contract_id: int, tail: int) -> str:
        """The last `tail` lines of output, at most 1 MiB."""
        ...

    def events(self) -> AsyncIterator[int]:
        """Contract ids whose workload changed, or ANY_CONTRACT. An event is only a reason to look again.

        Begins with ANY_CONTRACT, and ends when the engine goes away. Raises WorkloadError when it is away already.
        """
        ...


@dataclass(frozen=True, slots=True)
class GrownFile:
    """A file of the engine's own that a container has filled. `name`: inside the container."""

    name: str
    size_bytes: int


class EngineDisk(Protocol):
    """What fills the engine's disk. Raises WorkloadError."""

    async def usage(self) -> EngineUsage:
        """Everything, by owner. Walks every file of every container: minutes on a large machine."""
        ...

    async def written(self) -> dict[int, int]:
        """Bytes that each contract's container has written, by contract id. Walks the files of ours only."""
        ...

    async def allocated(self, contract_id: int, written_bytes: int) -> int | None:
        """Of what it has written, what takes room: files with holes say more. None: that cannot be told."""
        ...

    async def empty_grown(self, data_root: str, limit_bytes: int) -> dict[int, GrownFile]:
        """Empty files of the engine's own that contracts' containers made larger; the largest, by contract id.

        `data_root`: the engine's. Containers that do not run count too.
        """
        ...

    async def images(self) -> tuple[EngineImage, ...]: ...

    async def remove_image(self, image_id: str) -> None:
        """Absent is success. Raises `engine_conflict` for what somebody uses or has given another name."""
        ...

    async def sweep(self) -> None:
        """Remove what kaalia itself made in the engine for containers that are gone."""
        ...


@dataclass(frozen=True, slots=True)
class LimitsUnsure:
    """A file system that does not hold the sizes that were promised on it now. `evidence`: why.

    `folders`: all that are known to lie on it.
    """

    folder: str
    evidence: str
    folders: frozenset[str]


class DiskLimits(Protocol):
    """Keeps the sizes enforced that were promised on this machine's file systems."""

    async def check(self, wait_s: float) -> tuple[LimitsUnsure, ...]:
        """Mend what does not hold, waiting at most `wait_s`; what still does not hold then."""
        ...


@dataclass(frozen=True, slots=True)
class Counters:
    """All counters of this machine that are there. Not `is_whole`: something is missing, build them anew."""

    readings: tuple[Reading, ...] = ()
    is_whole: bool = False


class TrafficCounters(Protocol):
    """Counts bytes between contracts' networks and the internet; nothing that passes is touched. Raises HostError."""

    async def read(self) -> Counters: ...

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        """Begin and end counters, while the others count on."""
        ...

    async def build(self, counters: Collection[Counter]) -> None:
        """Begin these, whatever is there."""
        ...


class Volumes(Protocol):
    """Holds volumes. Raises WorkloadError and HostError; every verb may be repeated."""

    @property
    def place(self) -> str:
        """The folder that holds them; known once `open` was called."""
        ...

    async def open(self) -> VolumeBackend:
        """Look where volumes live and how their size is enforced."""
        ...

    async def make(self, volume: Volume) -> None:
        """Make it, empty or as a copy; a whole one with the same key is kept. Raises `volume_taken`."""
        ...

    async def ready(self, volume: Volume) -> str:
        """The folder to bind, mounted and checked. Raises `volume_missing`; never makes anything anew."""
        ...

    async def used_bytes(self, volume_id: int) -> int | None:
        """What it holds, None when that cannot be told."""
        ...

    async def taken_bytes(self, volume_id: int) -> int | None:
        """What it takes of the disk now, filled or not; None when that cannot be told."""
        ...

    async def remove(self, volume_id: int, key: str | None) -> None:
        """Remove the data. Absent is success. Raises `volume_in_use` while a container mounts it.

        Data of a volume with another key are somebody else's and stay; `key` None: whosever they are.
        """
        ...

    async def found(self) -> tuple[int, ...]:
        """Ids of all that lies in the folder, whole or not."""
        ...
