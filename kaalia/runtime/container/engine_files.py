"""Files of the engine's own folder that a container may write: no size of the container's holds them.

The engine mounts them at /etc/hosts, /etc/resolv.conf and /etc/hostname. With the network of a pause container they are
the pause's, and outlast the container.
"""

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaalia.runtime.base import GrownFile

log = logging.getLogger(__name__)

_FILES = {"HostsPath": "/etc/hosts", "ResolvConfPath": "/etc/resolv.conf", "HostnamePath": "/etc/hostname"}
_BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system's is."""


def empty_grown(container: Mapping[str, Any], data_root: str, limit_bytes: int) -> GrownFile | None:
    """Empty the files that take more than the limit, by a container's inspection; the largest of them. Blocks.

    Only files below the engine's data root, and no link: what is not, and what is not there, is left alone.
    """
    found = []
    for key, name in _FILES.items():
        path = Path(str(container.get(key) or ""))
        try:
            if _is_below(path, data_root) and (size := _emptied(path, limit_bytes)) > limit_bytes:
                found.append(GrownFile(name, size))
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("disk: %s is not looked at: %s", path, error)
    return max(found, key=lambda one: one.size_bytes, default=None)


def is_any_empty(container: Mapping[str, Any], data_root: str) -> bool:
    """The engine fills these files when it makes them: somebody has emptied one. What cannot be read is taken as full.

    Blocks.
    """
    for key in _FILES:
        path = Path(str(container.get(key) or ""))
        try:
            if _is_below(path, data_root) and path.lstat().st_size == 0:
                return True
        except OSError:
            continue
    return False


def _is_below(path: Path, data_root: str) -> bool:
    """With no link on the way below the root, and no `..`."""
    if not path.is_absolute() or not Path(data_root).is_absolute() or ".." in path.parts:
        return False
    return path.is_relative_to(data_root) and path.resolve().is_relative_to(Path(data_root).resolve() / "containers")


def _emptied(path: Path, limit_bytes: int) -> int:
    """What the file took, in bytes of blocks. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
    finally:
        os.close(handle)
    size = found.st_blocks * _BLOCK_BYTES
    if stat.S_ISREG(found.st_mode) and size > limit_bytes:
        _empty(path)
    return size


def _empty(path: Path) -> None:
    """A file that cannot be emptied is told all the same: who filled it is stopped."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        log.warning("disk: %s is not emptied: %s", path, error)
