"""The process that delivers: `python -m kaalia.notify.deliver` reads an Order on stdin and writes a Report to stdout.

A process of its own, since whoever answers may do so slowly, endlessly or never: it has a limit of time and of memory,
and nothing of it is left in the daemon.
"""

import http.client
import resource
import signal
import smtplib
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pydantic import ValidationError

from kaalia.clock import Clock, SystemClock
from kaalia.config_notify import MailConfig, WebhookConfig
from kaalia.errors import KaaliaError
from kaalia.notify import mail, webhook
from kaalia.notify.order import Order, Outcome, Parcel, Report, Verdict
from kaalia.notify.secret import Signer
from kaalia.units import MIB

TRY_S = 20.0
"""Of one try, from the connection's first byte to the answer's status."""
ALL_S = 60.0
"""After so long no other message is begun: whoever waits for this process ends it soon after, and would not hear what
was sent already. The rest is sent by the next one."""
MEMORY_BYTES = 1024 * MIB
"""Of addresses, most of which are never touched: an answer without an end is cut off before it fills the machine."""


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        order = Order.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        sys.stderr.write(f"cannot understand the order: {error.error_count()} fields are wrong\n")
        return 2
    sys.stdout.write(Report(outcomes=tuple(deliver(order, SystemClock()))).model_dump_json() + "\n")
    return 0


def deliver(order: Order, clock: Clock, try_s: float = TRY_S, all_s: float = ALL_S) -> Iterator[Outcome]:
    """One outcome for each parcel that was tried, at least one; the first failure is the last outcome.

    Uses SIGALRM: in the main thread only.
    """
    until_s = time.monotonic() + all_s
    if order.mail is not None:
        outcome = _guarded(order.mail, order.parcels, clock, try_s)
        yield from (outcome for _ in order.parcels)
        return
    for parcel in order.parcels:
        outcome = _guarded(order.webhook, (parcel,), clock, try_s) if order.webhook else _nothing()
        yield outcome
        if outcome.verdict is Verdict.FAILED or time.monotonic() >= until_s:
            return


def _guarded(channel: WebhookConfig | MailConfig, parcels: tuple[Parcel, ...], clock: Clock, try_s: float) -> Outcome:
    try:
        with _at_most(try_s):
            tls = ssl.create_default_context()
            if isinstance(channel, MailConfig):
                return mail.send(channel, parcels, clock, tls)
            return webhook.send(channel, parcels[0], Signer(channel.secret_file), clock, tls)
    except (KaaliaError, OSError, MemoryError, http.client.HTTPException) as error:
        code, text = _explained(error, channel.place)
        return Outcome(verdict=Verdict.FAILED, code=code, text=text)


def _explained(error: Exception, place: str) -> tuple[str, str]:
    """Code and sentence. Nothing that the other side wrote is in them but a status. SMTPException is an OSError."""
    match error:
        case KaaliaError():
            return error.code, str(error)
        case smtplib.SMTPAuthenticationError():
            return "notify_login_refused", f"the mail server refuses the login (status {error.smtp_code})"
        case smtplib.SMTPResponseException():
            return "notify_refused", f"the mail server answers with status {error.smtp_code}"
        case smtplib.SMTPServerDisconnected(__context__=TimeoutError() as late):
            return "notify_unreachable", f"cannot reach {place}: {late}"
        case smtplib.SMTPException() | http.client.HTTPException():
            return "notify_not_understood", f"it does not speak as it should ({type(error).__name__})"
        case ssl.SSLCertVerificationError():
            return "notify_untrusted", f"its certificate is not trusted: {error.verify_message}"
        case OSError():
            return "notify_unreachable", f"cannot reach {place}: {error.strerror or str(error) or type(error).__name__}"
        case _:
            return "notify_not_understood", "its answer has no end"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """TimeoutError after so long, whatever it waits for."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _nothing() -> Outcome:
    return Outcome(verdict=Verdict.FAILED, code="notify_refused", text="cannot send: the order names no channel")


if __name__ == "__main__":
    sys.exit(main())
