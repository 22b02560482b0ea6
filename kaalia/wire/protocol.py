"""The protocol between daemon and marketplace, as documents. docs/protocol.md tells the story.

All times are aware UTC datetimes (ISO 8601 on the wire), ids are integers unless said otherwise.
Unknown fields are ignored, so that either side may be newer.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kaalia.contracts.contract import Contract
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.fitness import Fault
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing
from kaalia.contracts.volume import Volume
from kaalia.errors import Problem
from kaalia.model.availability import Outage, Record
from kaalia.model.copying import CloudOrder, CopyOrder, CopyStatus, DoorOrder, Holder
from kaalia.model.machine import MachineReport
from kaalia.model.metering import Entry
from kaalia.model.relay import RelayLink
from kaalia.model.standing import Standing
from kaalia.model.volume import VolumeStatus
from kaalia.model.workload import WorkloadStatus

PATH_ENROLL = "/kaalia/v1/enroll"
PATH_DESIRED = "/kaalia/v1/machines/{machine_id}/desired"
PATH_STATUS = "/kaalia/v1/machines/{machine_id}/status"
PATH_TASK_RESULT = "/kaalia/v1/machines/{machine_id}/tasks/{task_id}/result"
PATH_TASK_LOGIN = "/kaalia/v1/machines/{machine_id}/tasks/{task_id}/login"
PATH_TASK_CLOUD = "/kaalia/v1/machines/{machine_id}/tasks/{task_id}/cloud"
PATH_REGISTRY_LOGIN = "/kaalia/v1/machines/{machine_id}/contracts/{contract_id}/registry-login"
PATH_CERTIFICATE = "/kaalia/v1/machines/{machine_id}/contracts/{contract_id}/certificate"

LONG_POLL_S = 50.0
"""How long the marketplace holds a request for the desired state when there is no news."""
MAX_CLOCK_SKEW_S = 300.0
"""A request signature older or newer than this is refused with code `clock_skew`."""
TASK_RESULT_MAX_BYTES = 1024 * 1024
CUT = "[cut: these are the last lines only]\n"
"""What a text begins with of which `shortened` kept the end."""


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """`public_key`: base64 of the raw Ed25519 key. The request is signed with it, proving possession."""

    token: str = field(repr=False)
    public_key: str
    fingerprint: str
    """SHA-256 hex of board, CPU and GPU identities: tells a moved disk from the same machine."""
    agent_version: str


@dataclass(frozen=True, slots=True)
class EnrolReply:
    machine_id: int
    marketplace_keys: dict[str, str]
    server_time: datetime


class Verb(StrEnum):
    """The fixed list of one-shot requests."""

    LOGS = "logs"
    EXECUTE = "execute"
    """`ls`, `rm` or `du` among the files of an instance, running or not."""
    DOOR = "door"
    """Let rsync in to the files of `TaskRequest.door`; the result's text is the port, a space, and the host key."""
    WITHDRAW_KEYS = "withdraw_keys"
    """Let the keys of `TaskRequest.door` in to its files no more; the result's text is how many doors there were."""
    COPY = "copy"
    """Begin `TaskRequest.copy`; what becomes of it is told by messages."""
    COPY_KEY = "copy_key"
    """The result's text is the public key with which this machine will carry out a copy away (`copy_id`)."""
    CANCEL_COPY = "cancel_copy"
    """End all copies to `TaskRequest.holder`; the result's text is how many."""
    CLOUD_COPY = "cloud_copy"
    """Begin `TaskRequest.cloud`, with the login that is asked for by the task's id; what becomes of it is told."""
    CANCEL_SYNC = "cancel_sync"
    """End all copies between `TaskRequest.holder` and clouds; the result's text is how many."""
    SNAPSHOT = "snapshot"
    """Push what the container holds as an image: lasts, and tells how it goes by results that are not final."""
    SELF_TEST = "self_test"
    """Test the whole machine once nobody rents it. The result says that it is ordered; what comes of it is told by
    `StatusPost.selftests`, with this task's id."""
    UNKNOWN = "unknown"
    """Whatever a newer marketplace asks for: refused in the result, so that the rest of its snapshot still holds."""

    @classmethod
    def _missing_(cls, value: object) -> "Verb":
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """`task_id` is unguessable. `deadline_at`: a later result is of no use to anyone."""

    task_id: str
    verb: Verb
    contract_id: int
    deadline_at: datetime
    tail: int = 1000
    filter: str | None = None
    """A plain substring or regular expression; the daemon applies it with a time limit."""
    daemon_logs: bool = False
    command: str | None = None
    """Of `execute`, as the renter wrote it: the machine parses it by `contracts.command`, whoever signed."""
    door: DoorOrder | None = None
    copy: CopyOrder | None = None
    copy_id: str | None = None
    holder: Holder | None = None
    cloud: CloudOrder | None = None
    image: str = ""
    """Of `snapshot`: where to push, with a tag."""
    pause: bool = True
    """Of `snapshot`: while it is committed nothing runs."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    text: str
    problem: Problem | None = None
    is_final: bool = True
    """False: how it goes; another one follows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Desired state, whole. Accepted only when (epoch, revision) is greater than the accepted one."""

    machine_id: int
    epoch: int
    revision: int
    issued_at: datetime
    not_after: datetime
    """Contracts that are new to the machine are not admitted after this; running ones go on."""
    listing: Listing | None
    contracts: tuple[Contract, ...]
    tasks: tuple[TaskRequest, ...]
    complete: bool
    marketplace_url: str
    """Becomes VAST_URL inside containers."""
    volumes: tuple[Volume, ...] = ()
    """Rented disk space. One that is not mentioned stays as it is: only a tombstone removes data."""
    maintenances: tuple[Window, ...] = ()
    """When the owner works on the machine; those that are not over. All there are, as with the listing."""
    relays: tuple[RelayLink, ...] | None = None
    """By which relays contracts are reached; all there are. None: the marketplace knows none, and nothing changes."""
    standing: Standing | None = None
    """How the marketplace sees the machine: for its owner to be told, and nothing else follows from it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed document: `payload` is the exact JSON text that was signed (Ed25519, base64)."""

    payload: str
    key_id: str
    signature: str


class MessageKind(StrEnum):
    WORKLOAD = "workload"
    """Body: WorkloadStatus, written once per change."""
    REPORT = "report"
    """Body: MachineReport."""
    VOLUME = "volume"
    """Body: VolumeStatus, written once per change."""
    METER = "meter"
    """Body: Entry, a line of the machine's journal."""
    COPY = "copy"
    """Body: CopyStatus, how a copy from or to this machine is doing."""
    SELFTEST = "selftest"
    """Body: SelfTestNotice. Of the outbox alone: it travels in `StatusPost.selftests`."""


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """One outbox row; exactly one of the bodies is set."""

    seq: int
    kind: MessageKind
    workload: WorkloadStatus | None = None
    report: MachineReport | None = None
    volume: VolumeStatus | None = None
    meter: Entry | None = None
    copy: CopyStatus | None = None


@dataclass(frozen=True, slots=True)
class StatusPost:
    """A heartbeat, with whatever the outbox holds. `workloads` (the full list) comes every few minutes."""

    stream_id: str
    epoch: int
    revision: int
    as_of: datetime
    messages: tuple[StatusMessage, ...]
    workloads: tuple[WorkloadStatus, ...] | None = None
    volumes: tuple[VolumeStatus, ...] | None = None
    cordon: Cordon | None = None
    """The owner drains the machine: it admits nothing new. In every post for as long as it is so."""
    faults: tuple[Fault, ...] | None = None
    """What keeps parts of the machine from being rented anew, one a part; in every post. None: an older daemon."""
    relay_key: str | None = None
    """With which this machine logs in at relays, as `ssh-ed25519 AAAA...`. None: it cannot use any."""
    outages: tuple[Outage, ...] = ()
    """Of its ledger, those that are news: they name causes, and change no cost."""
    availability: str | None = None
    """`wire.availability.digest` of the record that it has, empty without one. None: it knows of none."""
    conditions: tuple[Fault, ...] | None = None
    """What is wrong with the machine that a verification may be lost by (`contracts.impact`); in every post. None: an
    older daemon, of which `faults` is all that is known."""
    selftests: tuple[str, ...] = ()
    """Finished self-tests, each the JSON text of a `wire.selftest.SelfTestNotice`: those of which no post has arrived
    yet. One that comes again is known by its `run_id`."""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """`acked_seq`: every message up to it is safe. 0 when nothing was ever acknowledged in this stream."""

    acked_seq: int
    server_time: datetime
    seen_address: str | None = None
    """Where the post came from: news of it is a reason to probe the ports anew. Nothing else follows from it."""
    availability: Record | None = None
    """What the machine's reliability is reckoned from, whole. None: it has it already."""
    reliability: float | None = None
    """As it stands at `server_time`. None: an older marketplace."""


@dataclass(frozen=True, slots=True)
class RegistryLoginReply:
    registry: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """For a contract's Jupyter. `public_key`: PEM of a P-256 key that the machine made and keeps.

    Names are not asked for: the marketplace knows where it sends renters. Answered by a `Certificate`.
    """

    public_key: str


def shortened(text: str) -> str:
    """At most TASK_RESULT_MAX_BYTES of UTF-8: the end of the text, after a notice."""
    raw = text.encode(errors="replace")
    if len(raw) <= TASK_RESULT_MAX_BYTES:
        return text
    return CUT + raw[len(CUT) - TASK_RESULT_MAX_BYTES :].decode(errors="ignore")
