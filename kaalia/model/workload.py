"""What runs for a contract: its specification, where it is placed, and how it is doing.

    waiting ──▶ pulling ──▶ creating ──▶ starting ──▶ running ──▶ stopping ──▶ stopped
       ▲           │            │            │         │   ▲                      │
       │           ▼            ▼            ▼         ▼   └────── starting ◀─────┤
       │         failed ◀───────┴────────────┘       exited ──────────▲           │
       └────────────┘ (a newer generation, or a retry)                            ▼
    any ──▶ removing ──▶ ended            waiting ──▶ rejected             removing ──▶ ended

`unknown` stands beside the graph: the engine did not answer, and nothing is done until it does.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem


class LaunchMode(StrEnum):
    """How the container is started. SSH and JUPYTER replace the image's entrypoint; ARGS keeps it."""

    ARGS = "args"
    SSH = "ssh"
    JUPYTER = "jupyter"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class PortRequest:
    """A port the renter wants reachable. `container_port` >= 70000 asks for an identity port (IDENTITY_PORT_MIN)."""

    container_port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A granted port. An identity port has `container_port` == `host_port`; `requested` keeps the number asked for."""

    requested: int
    container_port: int
    host_port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """`-v V.901:/data`: volume 901 at an absolute path of the container."""

    volume_id: int
    path: str


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What the renter asked to run. Immutable for one generation of a contract."""

    image: str
    launch_mode: LaunchMode
    disk_bytes: int
    gpu_count: int
    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    """All variables but the port variables and PUBLIC_IPADDR, which only the machine knows."""
    ports: tuple[PortRequest, ...] = ()
    hostname: str | None = None
    volumes: tuple[VolumeMount, ...] = ()
    networks: tuple[str, ...] = ()
    onstart: str | None = None
    user: str | None = None
    needs_registry_login: bool = False
    """True: fetch the login from the marketplace right before the pull; it is never stored on the machine."""


class WorkloadState(StrEnum):
    WAITING = "waiting"
    REJECTED = "rejected"
    PULLING = "pulling"
    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"
    REMOVING = "removing"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NotMade:
    """A newer generation that the machine could not make, and why: the workload that is there goes on."""

    generation: int
    problem: Problem

    @property
    def warning(self) -> str:
        """For the renter, of what goes on."""
        text = f"{self.problem.message} [{self.problem.code}], so it was not made anew"
        return f"{text}; {self.problem.remedy}" if self.problem.remedy else text


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """How the workload of one contract generation is doing: the daemon's word, sent to the marketplace."""

    contract_id: int
    generation: int
    state: WorkloadState
    as_of: datetime
    status_msg: str = ""
    """One line for the renter."""
    container_id: str | None = None
    gpu_uuids: tuple[str, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    restarts_done: int = 0
    """How many of the contract's reboot requests have been carried out."""
    problem: Problem | None = None
    public_ipaddr: str | None = None
    """Its variable PUBLIC_IPADDR, for life. None: it has none, or an older kaalia made it."""
    not_made: NotMade | None = None
    image: str | None = None
    """What it is made of: the contract may leave the tag to the machine. None: it was not begun yet."""

    @property
    def answered(self) -> int:
        """The newest generation that the machine has dealt with: it made it, or could not."""
        return max(self.generation, self.not_made.generation if self.not_made else 0)
