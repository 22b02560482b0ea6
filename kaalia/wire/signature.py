"""Signatures: requests (RFC 9421 with Ed25519, body digests of RFC 9530) and signed documents.

Pure: the time and the nonce are arguments, key files are read and written by the callers. Refuses requests
whose signature does not cover method, path, query and body, and says which of the stable codes applies:
`signature_missing`, `signature_invalid`, `digest_mismatch`, `clock_skew`. Whether a nonce was seen before is
the caller's to know. Nothing here logs or quotes a key.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from http_message_signatures import (
    ContentDigest,
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    MappingKeyResolver,
    VerifyResult,
    algorithms,
)

from kaalia.errors import KaaliaError, MarketplaceError
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import MAX_CLOCK_SKEW_S, Envelope

LABEL = "kaalia"
"""Name of our signature in the Signature-Input and Signature fields."""

_COVERED = ("@method", "@path")
_NONCE_MAX_CHARACTERS = 64
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""FIPS 186-4, D.1.2.3."""
_HOST = "http://machine.invalid"
"""The library wants an absolute URL; scheme and authority are not signed, since proxies rewrite them."""


TlsPublicKey = ec.EllipticCurvePublicKey
"""Of a contract's Jupyter."""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """What a valid signature says besides the request itself."""

    key_id: str
    nonce: str
    created_at: datetime


def generate_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the caller keeps it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def derived_key(key: Ed25519PrivateKey, purpose: str) -> Ed25519PrivateKey:
    """Another key, the same each time, from which nobody learns the first."""
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=f"kaalia {purpose}".encode()).derive(key.private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(seed)


def tls_key(key: Ed25519PrivateKey, contract_id: int) -> ec.EllipticCurvePrivateKey:
    """That of a contract's Jupyter, by the machine's key: browsers know no Ed25519."""
    # 48 bytes for a number of 32: what is left after the division is even to one part in 2 ** 128.
    purpose = f"kaalia TLS key of contract {contract_id}".encode()
    wide = HKDF(hashes.SHA256(), 48, salt=None, info=purpose).derive(key.private_bytes_raw())
    return ec.derive_private_key(int.from_bytes(wide) % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def tls_private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the caller keeps it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def tls_public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def openssh_private(key: Ed25519PrivateKey) -> bytes:
    """As OpenSSH's programs read it, unencrypted: the caller keeps it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def openssh_public(key: Ed25519PrivateKey) -> str:
    """`ssh-ed25519 AAAA...`, without a comment."""
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def load_openssh(content: bytes) -> Ed25519PrivateKey:
    """The inverse of `openssh_private`. Raises KaaliaError `key_invalid`."""
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise KaaliaError("key_invalid", "cannot read the SSH key: it is no unencrypted OpenSSH key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KaaliaError("key_invalid", "cannot use the SSH key: it is not an Ed25519 key")
    return key


def load_private_pem(pem: bytes) -> Ed25519PrivateKey:
    """Raises KaaliaError `key_invalid`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KaaliaError("key_invalid", "cannot read the private key: it is not an unencrypted PEM key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KaaliaError("key_invalid", "cannot use the private key: it is not an Ed25519 key")
    return key


def public_key_text(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Base64 of the raw 32 bytes of the public key."""
    return base64.b64encode(_raw(key)).decode()


def load_public_key(text: str) -> Ed25519PublicKey:
    """The inverse of `public_key_text`. Raises KaaliaError `key_invalid`."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise KaaliaError("key_invalid", "cannot read the public key: it is not base64 of 32 raw bytes") from error


def key_id(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(_raw(key)).hexdigest()[:16]


def sign_request(
    key: Ed25519PrivateKey, method: str, target: str, body: bytes, created_at: datetime, nonce: str
) -> dict[str, str]:
    """Headers to add to a request: Signature-Input, Signature and, when there is a body, Content-Digest.

    `target`: path and query exactly as they stand in the request line. `created_at` is cut to whole seconds.
    """
    message = _Message(method, _HOST + target)
    covered = (*_COVERED, "@query") if "?" in target else _COVERED
    resolver = MappingKeyResolver(public_keys={}, private_keys={key_id(key): key})
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=resolver).sign(
        message,
        key_id=key_id(key),
        created=created_at,
        nonce=nonce,
        label=LABEL,
        covered_component_ids=covered,
        body=body or None,
    )
    return message.headers


def verify_request(
    public_key: Ed25519PublicKey, method: str, target: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> SignedBy:
    """Who signed, once everything holds. Raises ApiError 401 with one of the codes named above."""
    result = _verified(public_key, _Message(method, _HOST + target, dict(headers)), "?" in target, bool(body))
    try:
        ContentDigest.verify_components(result.covered_components, body)
    except HTTPMessageSignaturesException as error:
        raise ApiError(401, "digest_mismatch", f"cannot accept the request: {error}") from error
    created_s = result.parameters["created"]
    if not isinstance(created_s, int) or abs(now.timestamp() - created_s) > MAX_CLOCK_SKEW_S:
        raise ApiError(
            401,
            "clock_skew",
            f"cannot accept the request: it was signed at {created_s}, more than {MAX_CLOCK_SKEW_S:.0f} s "
            f"away from the server's time {now.timestamp():.0f}",
            remedy="set the clock of the machine (NTP), then it goes on by itself",
            server_time=now.isoformat(),
        )
    return SignedBy(str(result.parameters["keyid"]), _nonce(result), datetime.fromtimestamp(created_s, now.tzinfo))


def sign_document(key: Ed25519PrivateKey, payload: str) -> Envelope:
    """Sign this exact text. Both sides keep the text as it is: nothing is parsed and written again."""
    return Envelope(payload, key_id(key), base64.b64encode(key.sign(payload.encode())).decode())


def verify_document(envelope: Envelope, keys: Mapping[str, str]) -> str:
    """The payload, once one of `keys` (id -> public key text) is proven to have signed it.

    Raises MarketplaceError `document_forged`.
    """
    text = keys.get(envelope.key_id)
    if text is None:
        raise MarketplaceError(
            "document_forged",
            f"cannot accept the document: key {envelope.key_id[:16]!r} is not one that was enrolled",
            remedy="the marketplace has other keys than at enrolment: ask its operator why before enrolling again",
        )
    try:
        signature = base64.b64decode(envelope.signature, validate=True)
        load_public_key(text).verify(signature, envelope.payload.encode())
    except (WrongSignature, ValueError) as error:
        raise MarketplaceError(
            "document_forged", f"cannot accept the document: the signature of key {envelope.key_id} does not fit it"
        ) from error
    return envelope.payload


@dataclass(slots=True)
class _Message:
    """A request as the library reads it, and writes its headers."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class _Verifier(HTTPMessageVerifier):
    """Leaves the time to `verify_request`: the library would ask the system clock."""

    def validate_created_and_expires(self, sig_input: object, max_age: object = None) -> None:
        """Nothing to do here."""


def _verified(public_key: Ed25519PublicKey, message: _Message, has_query: bool, has_body: bool) -> VerifyResult:
    names = {name.lower() for name in message.headers}
    if not {"signature", "signature-input"} <= names:
        raise ApiError(
            401,
            "signature_missing",
            "cannot accept the request: it has no Signature and Signature-Input",
            remedy="sign it with the machine's key, as docs/protocol.md says",
        )
    covered = (*_COVERED, *(["@query"] if has_query else []), *(["content-digest"] if has_body else []))
    resolver = MappingKeyResolver(public_keys={key_id(public_key): public_key}, private_keys={})
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=resolver)
    try:
        [result] = verifier.verify(message, max_age=None, require_components=covered)
        if "created" not in result.parameters or not _nonce(result):
            raise ValueError("created or nonce is missing or too long")
    except (HTTPMessageSignaturesException, ValueError) as error:
        raise ApiError(
            401,
            "signature_invalid",
            f"cannot accept the request: {error or 'the signature does not fit it'}",
            remedy="the key is not the enrolled one, or something on the way changed the request",
        ) from error
    return result


def _nonce(result: VerifyResult) -> str:
    nonce = result.nonce or ""
    return nonce if len(nonce) <= _NONCE_MAX_CHARACTERS else ""


def _raw(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
