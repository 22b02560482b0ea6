"""All messages that wait, as one mail: a storm of faults is one mail, not a hundred."""

import smtplib
import ssl
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP

from kaalia.clock import Clock
from kaalia.config_notify import MailConfig
from kaalia.notify import secret
from kaalia.notify.order import Outcome, Parcel, Verdict
from kaalia.wire.notification import Notice, decode, words

TIMEOUT_S = 10.0
SUBJECT_MAX = 150


def send(config: MailConfig, parcels: tuple[Parcel, ...], clock: Clock, tls: ssl.SSLContext) -> Outcome:
    """One outcome for all. Raises OSError, smtplib.SMTPException or ConfigError."""
    login = None if config.login_file is None else secret.login(config.login_file)
    server = _connected(config, tls)
    try:
        server.ehlo()
        if config.tls == "starttls":
            server.starttls(context=tls)
            server.ehlo()
        if login is not None:
            server.login(*login)
        try:
            unknown = server.send_message(compose(config, parcels, clock))
        except smtplib.SMTPDataError as error:
            final = Verdict.REFUSED if 500 <= error.smtp_code < 600 else Verdict.FAILED
            text = f"the mail server does not take the mail (status {error.smtp_code})"
            return Outcome(verdict=final, code="notify_refused", text=text)
        with suppress(smtplib.SMTPException, OSError):
            server.quit()  # the mail is taken, whatever comes now
    finally:
        server.close()
    if unknown:
        text = f"sent, but not to {', '.join(sorted(unknown))}: the mail server refuses the address"
        return Outcome(verdict=Verdict.SENT, text=text)
    return Outcome(verdict=Verdict.SENT, text=f"taken by {config.place}")


def compose(config: MailConfig, parcels: tuple[Parcel, ...], clock: Clock) -> EmailMessage:
    """Plain text. What strangers wrote (a renter's report) stands in the text, never in a header of its own."""
    notices = [decode(parcel.document) for parcel in parcels]
    mail = EmailMessage(policy=SMTP)
    mail["From"] = config.sender
    mail["To"] = ", ".join(config.to)
    mail["Subject"] = _subject(notices)
    mail["Date"] = clock.now()
    mail["Message-ID"] = f"<{parcels[0].message_id}@{config.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n\n".join(_text(notice) for notice in notices) + "\n")
    return mail


def _connected(config: MailConfig, tls: ssl.SSLContext) -> smtplib.SMTP:
    if config.tls == "implicit":
        return smtplib.SMTP_SSL(config.host, config.port_used, timeout=TIMEOUT_S, context=tls)
    return smtplib.SMTP(config.host, config.port_used, timeout=TIMEOUT_S)


def _subject(notices: list[Notice]) -> str:
    first = notices[0].data
    name = first.machine if first.machine_id is None else f"{first.machine} (machine {first.machine_id})"
    state = "" if first.state == "once" else f", {first.state}"
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    text = f"[kaalia] {name}: {first.event.replace('_', ' ')}{state}{more}: {first.message}"
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= SUBJECT_MAX else line[: SUBJECT_MAX - 3] + "..."


def _text(notice: Notice) -> str:
    return "\n".join([notice.data.message, *(f"  {name}: {value}" for name, value in words(notice))])
