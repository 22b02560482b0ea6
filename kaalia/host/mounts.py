"""Mount namespaces, and paths that cannot leave their root: system calls that Python has no names for (Linux 5.6).

For processes of their own, with one thread and the rights of root: the daemon's process never calls them.
Everything here raises OSError as `os` does.
"""

import ctypes
import errno
import os
import re
import struct

READ_ONLY, NO_SUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8
"""Flags of a mount: linux/mount.h."""
HARMLESS = NO_SUID | NO_DEVICES | NO_PROGRAMS

_NEW_MOUNTS = 0x20000
_AT_HERE = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_CLONE_TREE, _TREE_CLOSE_ON_EXEC = 1, os.O_CLOEXEC
_FROM_EMPTY, _TO_EMPTY = 0x4, 0x40
_REMOUNT, _BIND, _DETACHED = 0x20, 0x1000, 2
_RECURSIVE, _PRIVATE = 0x4000, 0x40000
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2 = 428, 429, 437
"""Numbers of system calls that are the same on every processor."""
_NO_MAGIC_LINKS, _NO_SYMLINKS, _IN_ROOT = 0x02, 0x04, 0x10
_NO_NEW_RIGHTS = 38
_CAPABILITIES_V3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)

_OCTAL = re.compile(rb"\\([0-7]{3})")


def points(mountinfo: str) -> list[tuple[int, str]]:
    """The kernel's number of each mount and its path, from a text of /proc/PID/mountinfo."""
    rows = [line.split()[:5] for line in mountinfo.splitlines()]
    return [(int(row[0]), _plain(row[4])) for row in rows if len(row) == 5]


def _plain(path: str) -> str:
    """Spaces and the like stand there as octal numbers."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), os.fsencode(path)))


def own_mounts() -> None:
    """From now on this process has mounts of its own, seen by nobody else, that end with it."""
    _call("unshare", _NEW_MOUNTS)
    mount("none", "/", None, _RECURSIVE | _PRIVATE)


def enter(namespace: int) -> None:
    """Go to another mount namespace, to its root. `namespace`: an open /proc/PID/ns/mnt."""
    _call("setns", namespace, _NEW_MOUNTS)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = (os.fsencode(source), os.fsencode(target), os.fsencode(kind) if kind else None)
    _call("mount", *names, ctypes.c_ulong(flags), os.fsencode(options) or None)


def taken(path: str, *, recursive: bool = False) -> int:
    """What is mounted at a path of this process's namespace, as a mount that is nowhere yet; a file descriptor."""
    flags = _CLONE_TREE | _TREE_CLOSE_ON_EXEC | (_AT_RECURSIVE if recursive else 0)
    return _system(_OPEN_TREE, _AT_HERE, os.fsencode(path), flags)


def taken_at(folder: int) -> int:
    """The same of what an open path leads to: of the mount that it was found in."""
    return _system(_OPEN_TREE, folder, b"", _CLONE_TREE | _TREE_CLOSE_ON_EXEC | _AT_EMPTY_PATH)


def put(tree: int, place: int) -> None:
    """Mount what `taken` gave upon an open path."""
    _system(_MOVE_MOUNT, tree, b"", place, b"", _FROM_EMPTY | _TO_EMPTY)


def limit(tree: int, flags: int) -> None:
    """Flags for one mounted folder, by its open root."""
    os.fchdir(tree)
    mount("none", ".", None, _REMOUNT | _BIND | flags)


def limit_path(path: str, flags: int) -> None:
    """Flags for what is mounted at a path."""
    mount("none", path, None, _REMOUNT | _BIND | flags)


def inside(root: int, path: str, flags: int, *, follow: bool = True) -> int:
    """Open a path for which the open folder `root` is `/`: neither `..` nor links of any kind lead out of it.

    `follow` False: a symbolic link on the way is an error (ELOOP).
    """
    resolve = _IN_ROOT | _NO_MAGIC_LINKS | (0 if follow else _NO_SYMLINKS)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _system(_OPENAT2, root, os.fsencode(path), how, len(how))


def settle_in(root: str) -> None:
    """Make a folder on which something is mounted the root of this namespace, and let go of all others."""
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACHED)
    os.chdir("/")


def unmount(path: str) -> None:
    """Raises OSError EBUSY while anybody has files there."""
    _call("umount2", os.fsencode(path), 0)


def let_go(path: str) -> None:
    """Unmount as soon as nobody uses it any more."""
    _call("umount2", os.fsencode(path), _DETACHED)


def keep_rights(*capabilities: int) -> None:
    """Give up all capabilities but these, for good."""
    _call("prctl", _NO_NEW_RIGHTS, 1, 0, 0, 0)
    held = sum(1 << one for one in capabilities)
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    low, high = held & 0xFFFFFFFF, held >> 32
    _call("capset", header, struct.pack("6I", low, low, 0, high, high, 0))


def _system(number: int, *arguments: int | bytes) -> int:
    words = [ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one) for one in arguments]
    ctypes.set_errno(0)
    return _checked(f"system call {number}", _LIBC.syscall(ctypes.c_long(number), *words))


def _call(name: str, *arguments: object) -> int:
    ctypes.set_errno(0)
    return _checked(name, getattr(_LIBC, name)(*arguments))


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), name)
    return result
