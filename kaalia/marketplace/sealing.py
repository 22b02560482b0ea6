"""Secrets at rest, sealed with a key derived from the marketplace's signing key: a copied table tells nothing."""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PURPOSE = b"kaalia marketplace: registry logins at rest"


def seal(signing_key: Ed25519PrivateKey, secret: bytes) -> bytes:
    return _box(signing_key).encrypt(secret)


def unseal(signing_key: Ed25519PrivateKey, sealed: bytes) -> bytes | None:
    """None when it was sealed under another signing key, or changed since."""
    try:
        return _box(signing_key).decrypt(sealed)
    except InvalidToken:
        return None


def _box(signing_key: Ed25519PrivateKey) -> Fernet:
    key = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(signing_key.private_bytes_raw())
    return Fernet(base64.urlsafe_b64encode(key))
