"""Question and answer of a probe: strangers get nothing, nobody can make up an answer."""

from dataclasses import replace

import pytest

from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.wire import document, probe
from kaalia.wire.probe import ProbeReply, ProbeRequest, ProbeResult, ProbeTarget

NONCE, SECRET, CHALLENGE = b"n" * 32, b"s" * 32, b"c" * 16


def test_a_question_is_read_by_who_knows_the_nonce() -> None:
    asked = probe.question(NONCE, Protocol.TCP, 40003, CHALLENGE)

    assert len(asked) == probe.MESSAGE_BYTES
    assert probe.read_question(NONCE, Protocol.TCP, asked) == probe.Question(40003, CHALLENGE)
    assert probe.read_question(b"x" * 32, Protocol.TCP, asked) is None
    assert probe.read_question(NONCE, Protocol.UDP, asked) is None


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"KAALIAp?" + bytes(34), b"\xff" * 42])
def test_what_is_no_question_is_not_answered(data: bytes) -> None:
    assert probe.read_question(NONCE, Protocol.UDP, data) is None


def test_an_answer_is_no_longer_than_its_question_and_holds_for_its_challenge_only() -> None:
    told = probe.answer(NONCE, SECRET, Protocol.UDP, 40003, CHALLENGE)
    found = probe.read_answer(NONCE, Protocol.UDP, CHALLENGE, told)

    assert len(told) == len(probe.question(NONCE, Protocol.UDP, 40003, CHALLENGE))
    assert found is not None
    assert found.port == 40003
    assert probe.read_answer(NONCE, Protocol.UDP, b"d" * 16, told) is None
    assert probe.read_answer(NONCE, Protocol.TCP, CHALLENGE, told) is None
    assert probe.read_answer(NONCE, Protocol.UDP, CHALLENGE, told[:-1]) is None
    other = told[:8] + (40004).to_bytes(2) + told[10:]
    assert probe.read_answer(NONCE, Protocol.UDP, CHALLENGE, other) is None


def test_a_proof_needs_the_secret_that_the_prober_does_not_have() -> None:
    made = probe.proof(SECRET, Protocol.TCP, 40003, CHALLENGE).hex()
    good = ProbeResult(40003, Protocol.TCP, Outcome.ANSWERED, CHALLENGE.hex(), made, 40003)

    assert probe.is_proof(SECRET, good)
    forged = probe.proof(NONCE, Protocol.TCP, 40003, CHALLENGE).hex()
    for bad in (
        {"proof": forged},
        {"proof": "zz"},
        {"challenge": "00" * 16},
        {"answered_port": None},
        {"answered_port": 40004},
        {"answered_port": 2**40},
        {"protocol": Protocol.UDP},
    ):
        assert not probe.is_proof(SECRET, replace(good, **bad))


def test_documents_survive_the_wire() -> None:
    request = ProbeRequest("ab" * 32, (ProbeTarget(40000, Protocol.TCP), ProbeTarget(40001, Protocol.UDP, True)))
    reply = ProbeReply("203.0.113.7", "203.0.113.7", (ProbeResult(40000, Protocol.TCP, Outcome.SILENT),))

    assert document.decode(ProbeRequest, document.encode(request)) == request
    assert document.decode(ProbeReply, document.encode(reply)) == reply
    assert "ab" * 32 not in repr(request)
