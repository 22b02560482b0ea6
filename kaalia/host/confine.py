"""Namespaces and rights of a process that serves strangers: system calls that Python has no names for.

For processes of their own with one thread, as `kaalia.host.mounts`. Everything here raises OSError as `os` does.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct

_NEW_IPC, _NEW_UTS, _NEW_PIDS, _NEW_NET = 0x08000000, 0x04000000, 0x20000000, 0x40000000
"""linux/sched.h"""
_PDEATHSIG, _BOUND_DROP, _NO_NEW_RIGHTS = 1, 24, 38
"""linux/prctl.h"""
_SET_FLAGS, _UP = 0x8914, 1
"""netdevice(7), linux/if.h"""
_LIBC = ctypes.CDLL(None, use_errno=True)

CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SET_GID, SET_UID, CHROOT = 0, 1, 3, 4, 6, 7, 18
"""Capabilities: linux/capability.h. Never DAC_READ_SEARCH: it opens any file of a file system by number, shown or not,
and DAC_OVERRIDE alone reads and searches all that is shown."""


def alone() -> None:
    """From now on: no network, no shared memory, and the next child is process 1 of all that it sees."""
    _call("unshare", _NEW_IPC | _NEW_UTS | _NEW_PIDS | _NEW_NET)


def loopback() -> None:
    """The network of its own that this process has begins with what it says to itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SET_FLAGS, struct.pack("16sH22x", b"lo", _UP))


def die_with_parent(signal: int) -> None:
    """Get this signal when the parent ends."""
    _call("prctl", _PDEATHSIG, signal, 0, 0, 0)


def bound_rights(*kept: int) -> None:
    """No program that is run from here on has any other capability than these, whoever runs it.

    Those of this process itself go with its next `exec`.
    """
    number = 0
    while True:
        if number not in kept:
            try:
                _call("prctl", _BOUND_DROP, number, 0, 0, 0)
            except OSError as error:
                if error.errno != errno.EINVAL or not number:
                    raise
                break  # the kernel knows no more of them
        number += 1
    _call("prctl", _NO_NEW_RIGHTS, 1, 0, 0, 0)


def _call(name: str, *arguments: int) -> None:
    ctypes.set_errno(0)
    if getattr(_LIBC, name)(*(ctypes.c_ulong(one) for one in arguments)) < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), name)
