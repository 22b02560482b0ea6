"""Secrets of the channels, from files that nobody else can read; and the signatures of Standard Webhooks by them.

    content   = ID.TIMESTAMP.BODY
    signature = v1,  and base64 of HMAC-SHA256(secret, content)     secret: whsec_ and base64 of 24 to 64 bytes
                v1a, and base64 of Ed25519(key, content)            secret: whsk_ and base64 of the 32 bytes of the seed

Neither a secret nor anything made of one appears in an error.
"""

import base64
import binascii
import hashlib
import hmac
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.errors import ConfigError

FILE_MAX_BYTES = 4096
HMAC, ED25519 = "whsec_", "whsk_"


class Signer:
    """Signs a webhook's messages with the secret of a file. Raises ConfigError when it is made."""

    def __init__(self, path: Path) -> None:
        text = _lines(path, 1)[0]
        self._secret: bytes | None = None
        self._key: Ed25519PrivateKey | None = None
        try:
            if text.startswith(HMAC):
                self._secret = base64.b64decode(text.removeprefix(HMAC), validate=True)
                is_right = 24 <= len(self._secret) <= 64
            else:
                seed = base64.b64decode(text.removeprefix(ED25519), validate=True)
                is_right = text.startswith(ED25519) and len(seed) == 32
                self._key = Ed25519PrivateKey.from_private_bytes(seed) if is_right else None
        except (ValueError, binascii.Error):
            is_right = False
        if not is_right:
            raise ConfigError(
                "notify_secret_invalid",
                f"cannot use the secret file {path}: its first line is neither whsec_ nor whsk_ with base64 after it",
                remedy=f'make one: (umask 077; echo "{HMAC}$(head -c 32 /dev/urandom | base64 -w0)" > {path})',
            )

    @property
    def public_key(self) -> str:
        """`whpk_...` for the receiver, empty with a shared secret."""
        if self._key is None:
            return ""
        return f"whpk_{base64.b64encode(self._key.public_key().public_bytes_raw()).decode()}"

    def sign(self, message_id: str, timestamp_s: int, body: bytes) -> str:
        content = f"{message_id}.{timestamp_s}.".encode() + body
        if self._key is not None:
            return f"v1a,{base64.b64encode(self._key.sign(content)).decode()}"
        digest = hmac.new(self._secret or b"", content, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"


def login(path: Path) -> tuple[str, str]:
    """User and password. Raises ConfigError."""
    user, password = _lines(path, 2)
    return user, password


def _lines(path: Path, count: int) -> list[str]:
    """The first lines of a file that only its owner, root or this user, reads. Raises ConfigError."""
    try:
        # Without O_NONBLOCK a pipe put there would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            known = os.fstat(descriptor)
            text = file.read(FILE_MAX_BYTES).decode() if stat.S_ISREG(known.st_mode) else ""
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it holds no text"
        raise _unusable(path, f"it cannot be read ({why})", f"write it, and: chmod 600 {path}") from None
    if known.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _unusable(path, f"others can read it (mode {stat.S_IMODE(known.st_mode):04o})", f"run: chmod 600 {path}")
    if known.st_uid not in (0, os.geteuid()):
        raise _unusable(path, f"it belongs to user {known.st_uid}", f"run: chown root {path}")
    lines = [line.strip() for line in text.splitlines()][:count]
    if len(lines) < count or not all(lines):
        wanted = (
            "the user in the first line, the password in the second" if count == 2 else "the secret in its first line"
        )
        raise _unusable(path, "something is missing in it", f"write {wanted}")
    return lines


def _unusable(path: Path, why: str, remedy: str) -> ConfigError:
    return ConfigError("notify_secret_file", f"cannot use the secret file {path}: {why}", remedy=remedy)
