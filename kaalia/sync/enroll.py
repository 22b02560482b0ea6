"""Makes this machine a member of a marketplace: a key that never leaves it, and a one-time token.

The key file is written before the request, so that a lost answer is asked for again with the same key and the
machine gets the same id. Refuses a machine that is enrolled already.
"""

import asyncio
import os
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import kaalia
from kaalia.clock import Clock
from kaalia.errors import ConfigError, KaaliaError, StoreError
from kaalia.store import enrolment
from kaalia.store.changes import Topic
from kaalia.store.database import Database
from kaalia.store.enrolment import Enrolment
from kaalia.sync.client import MarketplaceClient, check_url
from kaalia.wire import signature
from kaalia.wire.protocol import EnrolRequest

KEY_FILE = "identity.pem"


async def enroll(
    database: Database,
    state_dir: Path,
    url: str,
    token: str,
    fingerprint: str,
    clock: Clock,
    tls: ssl.SSLContext | None = None,
) -> Enrolment:
    """Enrol and remember it. `fingerprint`: SHA-256 hex of the hardware's identities.

    Raises ConfigError `already_enrolled`, `url_invalid`, `tls_required`, `key_unusable`; UnauthorizedError
    `token_invalid`; MarketplaceError `token_used`; UnreachableError.
    """
    refuse_second(await database.read(enrolment.get))
    base = check_url(url)
    key = await asyncio.to_thread(ensure_key, state_dir)
    client = MarketplaceClient(base, 0, key, clock, tls)
    try:
        request = EnrolRequest(token, signature.public_key_text(key), fingerprint, kaalia.__version__)
        reply = await client.enrol(request)
    finally:
        await client.close()
    made = Enrolment(base, reply.machine_id, reply.marketplace_keys, clock.now())
    await database.transaction(lambda tx: enrolment.put(tx, made), Topic.ENROLMENT)
    return made


def refuse_second(known: Enrolment | None) -> None:
    """Raises ConfigError `already_enrolled`."""
    if known is not None:
        raise ConfigError(
            "already_enrolled",
            f"cannot enrol: this machine is machine {known.machine_id} of {known.url}",
            remedy="nothing is to be done; to join another marketplace, uninstall kaalia with its state first",
        )


def ensure_key(state_dir: Path) -> Ed25519PrivateKey:
    """The machine's key, made at the first call. Raises ConfigError `key_unusable`, StoreError `state_unavailable`."""
    path = state_dir / KEY_FILE
    if path.exists():
        return load_key(state_dir)
    key = signature.generate_key()
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(path, signature.private_pem(key))
    except OSError as error:
        raise StoreError("state_unavailable", f"cannot write {path}: {error}", remedy="run it as root") from error
    return key


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """Raises ConfigError `key_unusable`: missing, damaged, or readable by others than its owner."""
    path = state_dir / KEY_FILE
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(
                "key_unusable",
                f"cannot use {path}: its mode {mode:o} lets others read it",
                remedy=f"chmod 600 {path}; if others may have read it, enrol anew",
            )
        return signature.load_private_pem(path.read_bytes())
    except OSError as error:
        raise ConfigError("key_unusable", f"cannot read {path}: {error.strerror}", remedy="restore the file") from error
    except KaaliaError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "key_unusable", f"cannot use {path}: {error.problem.message}", remedy="restore the file from a copy"
        ) from error


def _write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
