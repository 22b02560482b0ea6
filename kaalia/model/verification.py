"""Whether a marketplace holds a machine for verified, why not, and what it takes: as it keeps and tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kaalia.model.selftest import RunResult


class State(StrEnum):
    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    DEVERIFIED = "deverified"
    """It was verified, and a fault took that back until it is over."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What stands between a machine and its verification. `code`: a requirement, a condition, or `selftest...`."""

    code: str
    words: str
    actual: str = ""
    required: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """A fault by which a verification is lost. `since`: when this marketplace first heard of it without a break.

    `counts_at`: from then on it costs the verification. `gone_at`: it is no longer seen; over when that has lasted.
    """

    code: str
    scope: str
    words: str
    since: datetime
    counts_at: datetime
    needs_test: bool = False
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine had when it was tested. `disk_bytes` None: nobody could tell."""

    gpu_uuids: tuple[str, ...]
    memory_bytes: int
    cores: int
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunNote:
    """One self-test that tells something of the whole machine. `failed`: steps. `missing`: steps it should have run.

    `taken_at`: when the marketplace heard of it.
    """

    run_id: int
    began_at: datetime
    ended_at: datetime
    taken_at: datetime
    result: RunResult
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    words: str = ""
    gpu_uuids: tuple[str, ...] = ()
    task_id: str = ""
    """Of the order of the marketplace that it answers."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """By name, of several GPUs the least."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A self-test that the marketplace asked for. `is_excused`: a renter came, who goes before it."""

    task_id: str
    at: datetime
    why: str
    is_excused: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Of the state. `why`: the codes that brought it about."""

    at: datetime
    state: State
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """All that is kept of a machine's verification.

    `last`: the newest test that came to a verdict; `proof`: the newest that passed and left nothing out, with what the
    machine was then. `proof_after`: a test must have begun after this, since a fault came in between. `barred`: the
    words of the marketplace's operator who took the verification away by hand.
    """

    state: State
    since: datetime
    causes: tuple[Cause, ...] = ()
    lacks: tuple[Lack, ...] = ()
    last: RunNote | None = None
    proof: RunNote | None = None
    capacity: Capacity | None = None
    proof_after: datetime | None = None
    failures: int = 0
    """Tests that failed since the last one that passed."""
    retest_at: datetime | None = None
    """When the next random one is due."""
    ordered: Ordered | None = None
    unanswered: int = 0
    """Tests in a row that were asked for and not run, though nobody rented."""
    barred: str = ""
    history: tuple[Change, ...] = ()
    """The newest last."""
    asides: tuple[Cause, ...] = ()
    """Open conditions that cost no verification: of virtual machines, or of one rental (`scope` `C.51`)."""


@dataclass(frozen=True, slots=True)
class VerificationView:
    """What of it the owner is told."""

    state: State
    since: datetime
    causes: tuple[Cause, ...] = ()
    lacks: tuple[Lack, ...] = ()
    last: RunNote | None = None
    ordered: Ordered | None = None
    history: tuple[Change, ...] = ()
    asides: tuple[Cause, ...] = ()
