"""The state directory: made once and private, used by one daemon at a time, never silently begun anew.

A machine that has an identity but no state has lost it: its tenants' contracts are unknown, so nothing may be
decided until a person has looked (I9).
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kaalia.config import Config
from kaalia.errors import ConfigError, StoreError
from kaalia.store.changes import Changes
from kaalia.store.database import Database


def prepare(folder: Path) -> None:
    """Make the folder, readable by its owner only. Raises ConfigError `state_dir_unusable`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise _unusable(folder, str(error)) from error
    if not usable:
        raise _unusable(folder, "it cannot be written by this user")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it with the process. Raises ConfigError `already_running`."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                "already_running",
                f"cannot start: a daemon with pid {file.read().strip() or 'unknown'} uses {path.parent}",
                remedy="stop it, or give this one a state_dir of its own",
            ) from None
        with suppress(OSError):  # the pid is only told to people: a full disk must not keep the daemon from starting
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield


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


def _refuse_lost_state(config: Config) -> None:
    path = config.database_path
    if config.identity_path.exists() and not (path.exists() and path.stat().st_size):
        raise StoreError(
            "state_missing",
            f"cannot find the state in {path}, but {config.identity_path.name} shows that this machine was enrolled",
            remedy=f"restore {path.name}, or move {config.identity_path} away and enrol anew; tenants run on meanwhile",
        )


def _unusable(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        "state_dir_unusable", f"cannot use the state directory {folder}: {why}", remedy="run as root, or set state_dir"
    )
