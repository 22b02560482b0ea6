"""What the daemon hands to the process that delivers, and what comes back: one JSON text each way, without secrets."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel

from kaalia.config_notify import MailConfig, WebhookConfig


class Parcel(BaseModel):
    """`document`: a wire.notification.Notice as text."""

    message_id: str
    document: str


class Order(BaseModel):
    """For one channel: exactly one of `webhook` and `mail` is set."""

    webhook: WebhookConfig | None = None
    mail: MailConfig | None = None
    parcels: tuple[Parcel, ...]

    @classmethod
    def by(cls, channel: WebhookConfig | MailConfig, parcels: tuple[Parcel, ...]) -> Self:
        if isinstance(channel, WebhookConfig):
            return cls(webhook=channel, parcels=parcels)
        return cls(mail=channel, parcels=parcels)

    @property
    def channel(self) -> WebhookConfig | MailConfig | None:
        return self.webhook or self.mail


class Verdict(StrEnum):
    SENT = "sent"
    REFUSED = "refused"
    """This one will never be taken; others may."""
    FAILED = "failed"
    """The channel takes nothing at present."""


class Outcome(BaseModel):
    """Of one parcel. `text`: what happened, for people; nothing of what the other side wrote but its status."""

    verdict: Verdict
    code: str = ""
    text: str = ""


class Report(BaseModel):
    """The parcels' outcomes in their order; fewer when a failure ended it, or its time."""

    outcomes: tuple[Outcome, ...]
