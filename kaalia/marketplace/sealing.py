"""Secrets at rest, sealed with a key derived from the marketplace's signing key: a copied table tells nothing."""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LOGINS = b"kaalia marketplace: registry logins at rest"
AUTHORITY = b"kaalia marketplace: the key of the certificate authority at rest"


def seal(signing_key: Ed25519PrivateKey, secret: bytes, purpose: bytes = LOGINS) -> bytes:
    return _box(signing_key, purpose).encrypt(secret)


def unseal(signing_key: Ed25519PrivateKey, sealed: bytes, purpose: bytes = LOGINS) -> bytes | None:
    """None when it was sealed under another signing key or for another purpose, or changed since."""
    try:
        return _box(signing_key, purpose).decrypt(sealed)
    except InvalidToken:
        return None


def _box(signing_key: Ed25519PrivateKey, purpose: bytes) -> Fernet:
    key = HKDF(SHA256(), length=32, salt=None, info=purpose).derive(signing_key.private_bytes_raw())
    return Fernet(base64.urlsafe_b64encode(key))
