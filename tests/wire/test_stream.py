"""The first bytes of a stream: what proves an order, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.model.speed import Direction
from kaalia.wire import stream
from kaalia.wire.stream import Ask, Verdict

KEY, OTHER = b"k" * 32, b"x" * 32
PEER, OURS = b"p" * 16, b"o" * 16
ASK = Ask(b"i" * 16, OURS, Direction.UP, 3, 8, 10, 10**9)


def test_an_ask_is_read_as_it_was_meant_and_proven_by_its_key_only() -> None:
    data = stream.ask(KEY, PEER, ASK)

    assert len(data) == stream.ASK_BYTES
    assert stream.read_ask(data) == ASK
    assert stream.is_proven(KEY, PEER, data)
    assert not stream.is_proven(OTHER, PEER, data)
    assert not stream.is_proven(KEY, OURS, data), "played again to another greeting"
    assert not stream.is_proven(KEY, PEER, stream.ask(OTHER, PEER, ASK))


@given(st.integers(0, stream.ASK_BYTES - 1), st.integers(1, 255))
def test_an_ask_that_was_changed_on_the_way_proves_nothing(at: int, change: int) -> None:
    data = bytearray(stream.ask(KEY, PEER, ASK))
    data[at] ^= change

    assert stream.read_ask(bytes(data)) is None or not stream.is_proven(KEY, PEER, bytes(data))


def test_a_verdict_counts_for_its_connection_only() -> None:
    said = stream.verdict(KEY, PEER, OURS, Verdict.GO)

    assert stream.read_verdict(KEY, PEER, OURS, said) is Verdict.GO
    assert stream.read_verdict(OTHER, PEER, OURS, said) is None
    assert stream.read_verdict(KEY, OURS, PEER, said) is None
    assert stream.read_verdict(KEY, PEER, OURS, said[:8] + bytes([Verdict.BUSY]) + said[9:]) is None
    assert stream.read_verdict(KEY, PEER, OURS, stream.verdict(None, PEER, OURS, Verdict.UNKNOWN)) is Verdict.UNKNOWN
    assert stream.read_verdict(KEY, PEER, OURS, stream.verdict(None, PEER, OURS, Verdict.GO)) is None


def test_a_report_counts_for_its_connection_only() -> None:
    told = stream.report(KEY, PEER, OURS, 12345)

    assert stream.read_report(KEY, PEER, OURS, told) == 12345
    assert stream.read_report(OTHER, PEER, OURS, told) is None
    assert stream.read_report(KEY, PEER, OURS, told[:8] + (10**9).to_bytes(8) + told[16:]) is None


@pytest.mark.parametrize("data", [b"", b"SSH-2.0-OpenSSH", bytes(200), b"KAALIAs?" + bytes(5)])
def test_what_is_something_else_is_nothing(data: bytes) -> None:
    assert stream.read_greeting(data) is None
    assert stream.read_ask(data) is None
    assert stream.read_verdict(KEY, PEER, OURS, data) is None
    assert stream.read_report(KEY, PEER, OURS, data) is None


def test_a_direction_that_nobody_knows_is_no_ask() -> None:
    data = bytearray(stream.ask(KEY, PEER, replace(ASK, direction=Direction.DOWN)))
    data[40] = 7

    assert stream.read_ask(bytes(data)) is None


def test_a_secret_makes_another_key_for_each_order() -> None:
    assert stream.shared_key(b"s", b"1" * 16) == stream.shared_key(b"s", b"1" * 16)
    assert len({stream.shared_key(secret, order) for secret in (b"s", b"t") for order in (b"1" * 16, b"2" * 16)}) == 4
