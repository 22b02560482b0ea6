"""The machine's key for relays: made once, a file that only the daemon reads. Not the one that signs requests."""

import os
from pathlib import Path

from kaalia.errors import KaaliaError, StoreError
from kaalia.wire import signature

KEY_FILE = "key"


def ensure_key(folder: Path) -> str:
    """The public part, as `ssh-ed25519 AAAA...`. A file that cannot be read is replaced: the marketplace is told.

    Raises StoreError `state_unavailable`.
    """
    path = folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if path.exists():
            path.chmod(0o600)  # ssh takes no key that others may read
            try:
                return signature.openssh_public(signature.load_openssh(path.read_bytes()))
            except KaaliaError:
                path.unlink()
        key = signature.generate_key()
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(signature.openssh_private(key))
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError as error:
        raise StoreError("state_unavailable", f"cannot write {path}: {error}", remedy="run it as root") from error
    return signature.openssh_public(key)
