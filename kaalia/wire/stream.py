"""The first bytes of each connection of a speed test: both sides prove that they know the order's key.

    peer -> machine   greeting: magic, challenge
    machine -> peer   ask: magic, order, challenge, direction, index, streams, seconds, bytes, tag
    peer -> machine   verdict: magic, code, tag
    then bytes go one way; after those of an upload the peer tells how many it got: magic, count, tag

No side sends more than these few bytes before the other one has proven itself, and each tag covers both challenges: so
nobody can be made to flood a stranger, and nothing recorded can be played again. Numbers are big-endian.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from kaalia.model.speed import Direction

ID_BYTES = 16
KEY_BYTES = 32
TAG_BYTES = 16

_GREETING, _ASK, _VERDICT, _REPORT = b"KAALIAs1", b"KAALIAs?", b"KAALIAs!", b"KAALIAs#"
_ASK_FORM = struct.Struct(">8s16s16sBBBHQ")
_DIRECTIONS = (Direction.DOWN, Direction.UP)

GREETING_BYTES = 8 + ID_BYTES
ASK_BYTES = _ASK_FORM.size + TAG_BYTES
VERDICT_BYTES = 8 + 1 + TAG_BYTES
REPORT_BYTES = 8 + 8 + TAG_BYTES


class Verdict(IntEnum):
    GO = 0
    UNKNOWN = 1
    """No such order, or the tag is wrong: the verdict bears no tag either."""
    TAKEN = 2
    """This stream was asked for before."""
    BUSY = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """One stream of one direction. `seconds` and `bytes_max`: of this stream."""

    order: bytes
    challenge: bytes
    direction: Direction
    index: int
    streams: int
    seconds: int
    bytes_max: int


def shared_key(secret: bytes, order: bytes) -> bytes:
    """The key of an order that a machine made itself, for a peer with whom it shares a secret."""
    return hmac.digest(secret, b"kaalia speed order|" + order, hashlib.sha256)


def greeting(challenge: bytes) -> bytes:
    return _GREETING + challenge


def read_greeting(data: bytes) -> bytes | None:
    """The peer's challenge; None for what is no greeting."""
    return data[8:] if len(data) == GREETING_BYTES and data.startswith(_GREETING) else None


def ask(key: bytes, peer_challenge: bytes, wanted: Ask) -> bytes:
    body = _ASK_FORM.pack(
        _ASK,
        wanted.order,
        wanted.challenge,
        _DIRECTIONS.index(wanted.direction),
        wanted.index,
        wanted.streams,
        wanted.seconds,
        wanted.bytes_max,
    )
    return body + _tag(key, b"ask", peer_challenge, body)


def read_ask(data: bytes) -> Ask | None:
    """What is asked, not yet proven; None for what is no ask."""
    if len(data) != ASK_BYTES or not data.startswith(_ASK):
        return None
    _, order, challenge, direction, index, streams, seconds, bytes_max = _ASK_FORM.unpack(data[: _ASK_FORM.size])
    if direction >= len(_DIRECTIONS):
        return None
    return Ask(order, challenge, _DIRECTIONS[direction], index, streams, seconds, bytes_max)


def is_proven(key: bytes, peer_challenge: bytes, data: bytes) -> bool:
    """Whether an ask was made with the key, for this connection."""
    body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
    return hmac.compare_digest(tag, _tag(key, b"ask", peer_challenge, body))


def verdict(key: bytes | None, peer_challenge: bytes, challenge: bytes, code: Verdict) -> bytes:
    """`key` None: the asker proved nothing, and gets no proof."""
    said = bytes([code])
    tag = bytes(TAG_BYTES) if key is None else _tag(key, b"verdict", peer_challenge, challenge, said)
    return _VERDICT + said + tag


def read_verdict(key: bytes, peer_challenge: bytes, challenge: bytes, data: bytes) -> Verdict | None:
    """None for what the order's peer did not say. A refusal for want of an order needs no proof."""
    if len(data) != VERDICT_BYTES or not data.startswith(_VERDICT):
        return None
    try:
        code = Verdict(data[8])
    except ValueError:
        return None
    if code is Verdict.UNKNOWN:
        return code
    is_genuine = hmac.compare_digest(data[9:], _tag(key, b"verdict", peer_challenge, challenge, data[8:9]))
    return code if is_genuine else None


def report(key: bytes, peer_challenge: bytes, challenge: bytes, count: int) -> bytes:
    said = count.to_bytes(8)
    return _REPORT + said + _tag(key, b"report", peer_challenge, challenge, said)


def read_report(key: bytes, peer_challenge: bytes, challenge: bytes, data: bytes) -> int | None:
    """How many bytes the peer got; None for what it did not say."""
    if len(data) != REPORT_BYTES or not data.startswith(_REPORT):
        return None
    is_genuine = hmac.compare_digest(data[16:], _tag(key, b"report", peer_challenge, challenge, data[8:16]))
    return int.from_bytes(data[8:16]) if is_genuine else None


def _tag(key: bytes, *parts: bytes) -> bytes:
    text = b"|".join(str(len(part)).encode() + b":" + part for part in parts)
    return hmac.digest(key, text, hashlib.sha256)[:TAG_BYTES]
