"""The probe of ports: the documents that daemon and prober exchange, and the question and answer on each port.

A question is `magic, port, challenge, tag`; the tag proves that the prober asks (it knows the nonce of the request), so
strangers get no answer. The answer is as long: `magic, port, check, proof`. The check, made with the nonce, tells the
prober that its daemon answered; the proof, made with a secret that never leaves the daemon, tells the daemon that the
prober did ask on that very port. Port: 2 bytes, big-endian; the rest: 16 bytes each.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol

PATH_PROBE = "/kaalia/v1/probe"
"""Of a prober that stands alone."""
PATH_MACHINE_PROBE = "/kaalia/v1/machines/{machine_id}/probe"
"""Of a marketplace; signed by the machine's key."""

TARGETS_MAX = 512
"""Of one request."""
FIRST_PORT = 1024
NONCE_BYTES = 32
PART_BYTES = 16
MESSAGE_BYTES = 8 + 2 + 2 * PART_BYTES
"""Of a question and of an answer alike: nobody can make a daemon send more than he sent."""

_ASK, _ANSWER = b"KAALIAp?", b"KAALIAp!"


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """`connect_only`: somebody uses this port; look whether it takes a TCP connection, and say nothing on it."""

    port: int
    protocol: Protocol
    connect_only: bool = False


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """`nonce`: 32 bytes in hex, new for each probe. `address`: where to, None for where the request comes from.

    Without targets it only asks what the own address is.
    """

    nonce: str = field(repr=False)
    targets: tuple[ProbeTarget, ...] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`challenge` and `proof` (hex), `answered_port`: of an answer, else empty."""

    port: int
    protocol: Protocol
    outcome: Outcome
    challenge: str = ""
    proof: str = ""
    answered_port: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """`seen_address`: where the request came from; `address`: what was probed."""

    seen_address: str
    address: str
    results: tuple[ProbeResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    port: int
    challenge: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`port`: where the daemon got the question."""

    port: int
    proof: bytes


def question(nonce: bytes, protocol: Protocol, port: int, challenge: bytes) -> bytes:
    return _ASK + port.to_bytes(2) + challenge + _tag(nonce, b"ask", protocol, port, challenge)


def read_question(nonce: bytes, protocol: Protocol, data: bytes) -> Question | None:
    """None for whatever is not a question of the prober that knows the nonce."""
    if len(data) != MESSAGE_BYTES or not data.startswith(_ASK):
        return None
    port, challenge, tag = int.from_bytes(data[8:10]), data[10:26], data[26:]
    is_genuine = hmac.compare_digest(tag, _tag(nonce, b"ask", protocol, port, challenge))
    return Question(port, challenge) if is_genuine else None


def answer(nonce: bytes, secret: bytes, protocol: Protocol, port: int, challenge: bytes) -> bytes:
    check = _tag(nonce, b"answer", protocol, port, challenge)
    return _ANSWER + port.to_bytes(2) + check + proof(secret, protocol, port, challenge)


def read_answer(nonce: bytes, protocol: Protocol, challenge: bytes, data: bytes) -> Answer | None:
    """None for whatever is not the daemon's answer to this challenge."""
    if len(data) != MESSAGE_BYTES or not data.startswith(_ANSWER):
        return None
    port, check = int.from_bytes(data[8:10]), data[10:26]
    is_genuine = hmac.compare_digest(check, _tag(nonce, b"answer", protocol, port, challenge))
    return Answer(port, data[26:]) if is_genuine else None


def proof(secret: bytes, protocol: Protocol, port: int, challenge: bytes) -> bytes:
    """What only the daemon can make, and only for a question that reached it."""
    return _tag(secret, b"proof", protocol, port, challenge)


def is_proof(secret: bytes, result: ProbeResult) -> bool:
    """Whether a result that says ANSWERED is backed by an answer of this daemon."""
    if result.answered_port is None:
        return False
    try:
        challenge, shown = bytes.fromhex(result.challenge), bytes.fromhex(result.proof)
        made = proof(secret, result.protocol, result.answered_port, challenge)
    except (ValueError, OverflowError):
        return False
    return hmac.compare_digest(shown, made)


def _tag(key: bytes, role: bytes, protocol: Protocol, port: int, challenge: bytes) -> bytes:
    text = b"|".join((role, protocol.value.encode(), port.to_bytes(2), challenge))
    return hmac.digest(key, text, hashlib.sha256)[:PART_BYTES]
