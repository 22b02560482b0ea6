from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.errors import KaaliaError
from kaalia.wire import signature
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import Envelope

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
KEY = signature.load_private_pem(
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n"
    b"-----END PRIVATE KEY-----\n"
)
"""test-key-ed25519 of RFC 9421, appendix B.1.4."""
TARGET = "/kaalia/v1/machines/7/desired?epoch=1&revision=2"


def sign(method: str = "GET", target: str = TARGET, body: bytes = b"", nonce: str = "n1") -> dict[str, str]:
    return signature.sign_request(KEY, method, target, body, NOW, nonce)


def verify(
    headers: dict[str, str], method: str = "GET", target: str = TARGET, body: bytes = b"", now: datetime = NOW
) -> signature.SignedBy:
    return signature.verify_request(KEY.public_key(), method, target, headers, body, now)


def refusal(headers: dict[str, str], **changes: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        verify(headers, **changes)  # type: ignore[arg-type]
    assert caught.value.status == 401
    return caught.value


def test_signed_request_names_its_signer_nonce_and_time() -> None:
    by = verify(sign("POST", "/a", b"{}", "n-17"), "POST", "/a", b"{}")
    assert by == signature.SignedBy(signature.key_id(KEY), "n-17", NOW)


def test_signature_has_the_form_of_rfc_9421() -> None:
    headers = sign("POST", "/a?b=1", b"{}")
    assert headers["Signature-Input"] == (
        'kaalia=("@method" "@path" "@query" "content-digest");created=1767268800;'
        f'keyid="{signature.key_id(KEY)}";alg="ed25519";nonce="n1"'
    )
    assert headers["Content-Digest"] == "sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:"


@settings(max_examples=50)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.text("abcxyz0189-_./", max_size=40),
    query=st.none() | st.text("abcxyz0189=&", max_size=40),
    body=st.binary(max_size=200),
)
def test_any_signed_request_verifies(method: str, path: str, query: str | None, body: bytes) -> None:
    target = f"/k{path}" + ("" if query is None else f"?{query}")
    assert verify(sign(method, target, body), method, target, body).nonce == "n1"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"target": TARGET.replace("machines/7", "machines/8")},
        {"target": TARGET.replace("revision=2", "revision=1")},
        {"target": TARGET.partition("?")[0]},
        {"body": b"{}"},
    ],
)
def test_changed_request_is_refused(changes: dict[str, object]) -> None:
    assert refusal(sign(), **changes).code == "signature_invalid"


def test_query_that_was_added_on_the_way_is_refused() -> None:
    assert refusal(sign(target="/a"), target="/a?wait=1").code == "signature_invalid"


def test_changed_body_is_refused() -> None:
    assert refusal(sign("POST", "/a", b"{}"), method="POST", target="/a", body=b"[]").code == "digest_mismatch"


def test_removed_body_is_refused() -> None:
    assert refusal(sign("POST", "/a", b"{}"), method="POST", target="/a").code == "digest_mismatch"


def test_another_key_is_refused() -> None:
    headers = signature.sign_request(signature.generate_key(), "GET", TARGET, b"", NOW, "n1")
    assert refusal(headers).code == "signature_invalid"


def test_another_key_under_our_name_is_refused() -> None:
    stranger = signature.generate_key()
    headers = signature.sign_request(stranger, "GET", TARGET, b"", NOW, "n1")
    headers["Signature-Input"] = headers["Signature-Input"].replace(signature.key_id(stranger), signature.key_id(KEY))
    assert refusal(headers).code == "signature_invalid"


@pytest.mark.parametrize("name", ["Signature", "Signature-Input"])
def test_missing_header_is_refused(name: str) -> None:
    headers = sign()
    del headers[name]
    assert refusal(headers).code == "signature_missing"


def test_broken_headers_are_refused() -> None:
    assert refusal({**sign(), "Signature": "kaalia=:"}).code == "signature_invalid"


def test_overlong_nonce_is_refused() -> None:
    assert refusal(sign(nonce="n" * 65)).code == "signature_invalid"


@pytest.mark.parametrize("seconds", [-301, 301])
def test_clock_skew_is_refused_with_the_servers_time(seconds: int) -> None:
    now = NOW + timedelta(seconds=seconds)
    error = refusal(sign(), now=now)
    assert error.code == "clock_skew"
    assert error.extra["server_time"] == now.isoformat()


@pytest.mark.parametrize("seconds", [-300, 300])
def test_small_skew_is_accepted(seconds: int) -> None:
    assert verify(sign(), now=NOW + timedelta(seconds=seconds)).created_at == NOW


def test_document_keeps_its_exact_text() -> None:
    payload = '{"b": 1,  "a": "ü"}'
    envelope = signature.sign_document(KEY, payload)
    keys = {signature.key_id(KEY): signature.public_key_text(KEY)}
    assert signature.verify_document(envelope, keys) == payload


def test_forged_documents_are_refused() -> None:
    keys = {signature.key_id(KEY): signature.public_key_text(KEY)}
    good = signature.sign_document(KEY, "{}")
    stranger = signature.sign_document(signature.generate_key(), "{}")
    forged = [
        Envelope("{ }", good.key_id, good.signature),
        Envelope("{}", good.key_id, stranger.signature),
        Envelope("{}", good.key_id, "not base64"),
        stranger,
    ]
    for envelope in forged:
        with pytest.raises(KaaliaError) as caught:
            signature.verify_document(envelope, keys)
        assert caught.value.code == "document_forged"


def test_keys_survive_their_texts() -> None:
    key = signature.generate_key()
    again = signature.load_private_pem(signature.private_pem(key))
    assert signature.public_key_text(again) == signature.public_key_text(key)
    assert signature.key_id(signature.load_public_key(signature.public_key_text(key))) == signature.key_id(key)
    assert len(signature.key_id(key)) == 16


@pytest.mark.parametrize("text", ["", "AAAA", "not base64", "A" * 44])
def test_bad_public_key_is_refused(text: str) -> None:
    with pytest.raises(KaaliaError) as caught:
        signature.load_public_key(text)
    assert caught.value.code == "key_invalid"


def test_bad_private_key_is_refused_without_quoting_it() -> None:
    with pytest.raises(KaaliaError) as caught:
        signature.load_private_pem(b"secret bytes")
    assert caught.value.code == "key_invalid"
    assert "secret" not in str(caught.value)


def test_example_of_the_documentation_is_true() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    head, body = text.partition("```http\n")[2].partition("\n```")[0].split("\n\n")
    request, *fields = head.splitlines()
    method, target = request.split()
    headers = dict(field.split(": ", 1) for field in fields)
    key = signature.load_public_key(text.partition("(public key `")[2].partition("`")[0])
    by = signature.verify_request(key, method, target, headers, body.encode(), NOW)
    assert by.key_id == signature.key_id(KEY)
