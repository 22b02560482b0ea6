"""One POST for each message, signed. Believes nothing that comes back but the status: no redirect is followed, no body
is read."""

import http.client
import ssl
from urllib.parse import urlsplit

from kaalia.clock import Clock
from kaalia.config_notify import WebhookConfig
from kaalia.notify.order import Outcome, Parcel, Verdict
from kaalia.notify.secret import Signer

TIMEOUT_S = 10.0
"""Of each step: the connection, TLS, the answer's first line. All of them together are cut off by `deliver`."""
_THIS_ONE = frozenset({400, 405, 406, 413, 415, 422})
"""Statuses that speak of a message; any other refusal speaks of the channel."""


def send(config: WebhookConfig, parcel: Parcel, signer: Signer, clock: Clock, tls: ssl.SSLContext) -> Outcome:
    """Raises OSError or http.client.HTTPException when there is no answer."""
    parts = urlsplit(config.url)
    body, timestamp_s = parcel.document.encode(), int(clock.now().timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "kaalia",
        "Connection": "close",
        "webhook-id": parcel.message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signer.sign(parcel.message_id, timestamp_s, body),
    }
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT_S, context=tls
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    return verdict(status)


def verdict(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(verdict=Verdict.SENT, text=f"HTTP status {status}")
    if 300 <= status < 400:
        return Outcome(
            verdict=Verdict.FAILED,
            code="notify_redirected",
            text=f"it answers with a redirect ({status}), which is not followed: write the URL that it leads to",
        )
    final = Verdict.REFUSED if status in _THIS_ONE else Verdict.FAILED
    return Outcome(verdict=final, code="notify_refused", text=f"it answers with HTTP status {status}")
