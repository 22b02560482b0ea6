"""What the owner is told of his machine, as a webhook's body: a payload as Standard Webhooks describes it
(type, timestamp, data). And how the channels do, as the local API tells it."""

from dataclasses import asdict, dataclass
from datetime import datetime

from kaalia.contracts.notification import Told
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class NoticeData:
    """`machine_id` None: not enrolled. `state`: began, over or once. Times are ISO 8601, UTC."""

    machine_id: int | None
    machine: str
    event: str
    state: str
    severity: str
    code: str
    scope: str
    message: str
    remedy: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Notice:
    """`type`: event and state, such as `disk_low.began`."""

    type: str
    timestamp: datetime
    data: NoticeData


@dataclass(frozen=True, slots=True)
class ChannelView:
    """`failures`: consecutive ones. `outcome`: of the last try, empty: none yet."""

    name: str
    waiting: int
    failures: int
    next_try_at: datetime | None
    outcome: str


@dataclass(frozen=True, slots=True)
class SentView:
    channel: str
    event: str
    created_at: datetime
    done_at: datetime | None
    outcome: str


@dataclass(frozen=True, slots=True)
class NotifyDocument:
    """`channels`: those that were used; `newest`: the newest first."""

    as_of: datetime
    channels: tuple[ChannelView, ...]
    newest: tuple[SentView, ...]


def encode(told: Told, machine_id: int | None, machine: str, now: datetime) -> str:
    """The exact text that is kept, signed and sent."""
    one = told.occurrence
    data = NoticeData(
        machine_id=machine_id,
        machine=machine,
        event=one.event,
        state=told.state,
        severity=one.severity,
        code=one.code,
        scope=one.scope,
        message=one.message,
        remedy=one.remedy,
        since=one.since,
        until=one.until,
    )
    return document.encode(Notice(f"{one.event}.{told.state}", now, data))


def decode(text: str) -> Notice:
    """Raises KaaliaError `document_invalid`."""
    return document.decode(Notice, text)


def words(notice: Notice) -> list[tuple[str, str]]:
    """For a mail: what is known, with its name; nothing that is empty."""
    told = {name: value for name, value in asdict(notice.data).items() if value not in ("", None)}
    told.pop("message")
    return [(name.replace("_", " "), _text(value)) for name, value in told.items()]


def _text(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
