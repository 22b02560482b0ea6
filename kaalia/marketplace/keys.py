"""The marketplace's signing key: made once, kept in a file that only its owner reads."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.errors import ConfigError
from kaalia.wire import signature

KEY_FILE = "signing_key.pem"


def open_key(data_dir: Path) -> Ed25519PrivateKey:
    """Load the key of a data directory, or make it. Raises `signing_key_exposed`, `key_invalid`."""
    path = data_dir / KEY_FILE
    if not path.exists():
        _create(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(
            "signing_key_exposed",
            f"cannot use the signing key {path}: its mode {mode:o} lets others read or change it",
            remedy=f"Run `chmod 600 {path}`; if others may have read it, delete it and enrol every machine again",
        )
    return signature.load_private_pem(path.read_bytes())


def _create(path: Path) -> None:
    """Two processes may get here at once: the file appears whole, and the first one wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(signature.private_pem(signature.generate_key()))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
