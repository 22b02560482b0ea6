"""The section `notify` of the configuration: where the owner is told what happens to his machine. Holds no secrets:
files hold them, mode 0600, and are named here."""

import ipaddress
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kaalia.config_section import AbsolutePath, Section

CHANNELS_MAX = 8

EventName = Literal[
    "machine_offline",
    "verification_failed",
    "issue_detected",
    "reported_by_renter",
    "disk_low",
    "listing_ends",
    "maintenance_confirmed",
]
"""Those of `contracts.notification.Event`."""

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be a URL, such as https://hooks.example.com/kaalia") from None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not (text.isascii() and text.isprintable()):
        raise ValueError("must be a URL, such as https://hooks.example.com/kaalia")
    if parts.username is not None or parts.fragment or " " in text:
        raise ValueError("must be a URL without user, password and fragment: the signature says who sends")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"must begin with https://: without TLS anyone on the way to {host} reads along")
    return text


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("must be a plain mail address, such as me@example.com")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be the name or address of a mail server, such as smtp.example.com")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be a name of up to 32 small letters, digits, _ and -, such as ops")
    return text


def _words(value: object) -> object:
    """A variable holds them with commas between; one alone is a list too."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Events = Annotated[tuple[EventName, ...], BeforeValidator(_words)]
Address = Annotated[str, AfterValidator(_address)]


class WebhookConfig(Section):
    url: Annotated[str, AfterValidator(_url)] = Field(repr=False)
    """May hold a token in its path: never logged."""
    secret_file: AbsolutePath
    """Its first line: whsec_ and base64 (HMAC-SHA256), or whsk_ and base64 (Ed25519)."""
    events: Events = ()
    """Empty: all."""

    @property
    def place(self) -> str:
        """Where it leads, fit for a log."""
        return urlsplit(self.url).netloc


class MailConfig(Section):
    host: Annotated[str, AfterValidator(_host)]
    port: int | None = Field(default=None, ge=1, le=65535)
    """None: by `tls`."""
    tls: Literal["starttls", "implicit", "off"] = "starttls"
    login_file: AbsolutePath | None = None
    """The user in its first line, the password in its second."""
    sender: Address
    to: Annotated[tuple[Address, ...], BeforeValidator(_words), Field(min_length=1, max_length=16)]
    events: Events = ()

    @property
    def port_used(self) -> int:
        return self.port or {"starttls": 587, "implicit": 465, "off": 25}[self.tls]

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port_used}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tls == "off" and not is_loopback(self.host):
            raise ValueError(f"must have tls: starttls or implicit, since {self.host} is not this machine")
        if self.tls == "off" and self.login_file is not None:
            raise ValueError("must have no login_file while tls is off")
        return self


class NotifyConfig(Section):
    webhooks: dict[Name, WebhookConfig] = Field(default_factory=dict)
    mails: dict[Name, MailConfig] = Field(default_factory=dict)
    delay_s: float = Field(default=60.0, ge=0, le=3600)
    """What is over sooner is not told."""
    min_severity: Literal["critical", "warn"] = "critical"
    """From which on a condition is an issue. What is unknown counts as critical."""

    @property
    def channels(self) -> dict[str, WebhookConfig | MailConfig]:
        """By the names that logs and tables use."""
        hooks = {f"webhooks.{name}": hook for name, hook in self.webhooks.items()}
        return {**hooks, **{f"mails.{name}": mail for name, mail in self.mails.items()}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.webhooks) + len(self.mails) > CHANNELS_MAX:
            raise ValueError(f"must name at most {CHANNELS_MAX} webhooks and mails together")
        return self
