"""The state directory: made once and private, used by one daemon at a time, never silently begun anew.

A machine that has an identity but no state has lost it: its tenants' contracts are unknown, so nothing may be
decided until a person has looked (I9).
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from kaalia.config import Config
from kaalia.errors import ConfigError, StoreError
from kaalia.store.changes import Changes
from kaalia.store.database import Database

_NO_WRITING = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES)
_RUN = Path("/run")


def prepare(folder: Path, *known: Path) -> None:
    """Make the folder, readable by its owner only. Raises ConfigError `state_dir_unusable`.

    A folder that cannot be written any more but holds one of the `known` files is no mistake of the configuration:
    tenants may depend on it, so safe mode takes over (`open_database` says why).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK) or any(path.exists() for path in known)
    except OSError as error:
        raise _unusable(folder, str(error)) from error
    if not usable:
        raise _unusable(folder, "it cannot be written by this user")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it with the process. Raises ConfigError `already_running`."""
    descriptor, is_writable = _open_lock(path)
    with os.fdopen(descriptor, "r+" if is_writable else "r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                "already_running",
                f"cannot start: a daemon with pid {file.read().strip() or 'unknown'} uses {path.parent}",
                remedy="stop it, or give this one a state_dir of its own",
            ) from None
        if is_writable:
            _note_pid(descriptor)
        yield


def _open_lock(path: Path) -> tuple[int, bool]:
    """The lock file, made if need be; and whether it can be written. A full or read-only disk is no reason to fail."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), True
    except OSError as error:
        if error.errno not in _NO_WRITING:
            raise _unusable(path.parent, str(error)) from error
    with suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
    spare = _spare_lock(path)
    return os.open(spare, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), True


def _spare_lock(path: Path) -> Path:
    """For a disk that lost the lock file and takes no other: in /run, which is memory."""
    return _RUN / f"kaalia-{sha256(str(path).encode()).hexdigest()[:16]}.lock"


def _note_pid(descriptor: int) -> None:
    """For people; the lock holds without it."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


async def open_database(config: Config, changes: Changes) -> Database:
    """The open state database. Raises StoreError: `state_missing`, or what Database.open raises."""
    await asyncio.to_thread(_refuse_lost_state, config)
    database = Database(config.database_path, changes)
    try:
        await database.open()
    except BaseException:
        await database.close()
        raise
    return database


@asynccontextmanager
async def new_state(config: Config, changes: Changes) -> AsyncIterator[Database]:
    """A state begun anew on a person's word. It takes its place when the block ends well, else nothing has changed.

    Raises StoreError `state_exists`, or what Database.open raises.
    """
    path, fresh = config.database_path, config.database_path.with_suffix(".new")
    if await asyncio.to_thread(path.exists):
        raise StoreError(
            "state_exists",
            f"cannot begin a new state: {path} exists",
            remedy="leave out --recover if it is sound; if not, move it away first and keep it",
        )
    await asyncio.to_thread(fresh.unlink, missing_ok=True)
    database = Database(fresh, changes)
    try:
        await database.open()
        yield database
    except BaseException:
        await database.close()
        await asyncio.to_thread(fresh.unlink, missing_ok=True)
        raise
    await database.close()
    await asyncio.to_thread(fresh.rename, path)


def _refuse_lost_state(config: Config) -> None:
    path = config.database_path
    if config.identity_path.exists() and not (path.exists() and path.stat().st_size):
        raise StoreError(
            "state_missing",
            f"cannot find the state in {path}, but {config.identity_path.name} shows that this machine was enrolled",
            remedy=f"restore {path.name}, or begin anew and adopt what runs: kaalia enroll URL TOKEN --recover; "
            "tenants run on meanwhile, until the ends that their containers name",
        )


def _unusable(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        "state_dir_unusable", f"cannot use the state directory {folder}: {why}", remedy="run as root, or set state_dir"
    )
