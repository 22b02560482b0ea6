"""What a process that serves strangers can still do: tried with the kernel, by a child that gives its rights up."""

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import NoReturn

import pytest

from kaalia.host import mounts
from kaalia.host.process import forked
from kaalia.runtime.view import program
from kaalia.transfer import cell

_LIBC = ctypes.CDLL(None, use_errno=True)
_DAC_READ_SEARCH = 2
_HERE = -100
_HANDLE_BYTES = 128


def _handle(path: Path) -> ctypes.Array[ctypes.c_char]:
    """The kernel's own number of a file, which leads to it whatever folders are in the way."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", _HANDLE_BYTES, 0), 8 + _HANDLE_BYTES)
    if _LIBC.name_to_handle_at(_HERE, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0) < 0:
        pytest.skip(f"this file system has no handles: {os.strerror(ctypes.get_errno())}")
    return handle


def _opened(folder: int, handle: ctypes.Array[ctypes.c_char]) -> int:
    """0, or the number of the error."""
    return 0 if _LIBC.open_by_handle_at(folder, handle, os.O_RDONLY) >= 0 else ctypes.get_errno()


def _tried(rights: tuple[int, ...], folder: int, handle: ctypes.Array[ctypes.c_char], secret: Path) -> int:
    def work() -> NoReturn:
        try:
            mounts.keep_rights(*rights)
            is_read = secret.read_text() == "other's"
            os._exit(_opened(folder, handle) if is_read else 255)
        except OSError as error:
            os.write(2, str(error).encode())
        os._exit(254)

    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


@pytest.mark.parametrize("rights", [cell.RIGHTS, program.RIGHTS])
def test_files_are_read_by_their_path_and_not_by_their_number(rights: tuple[int, ...], tmp_path: Path) -> None:
    """By number a file is reached in every folder of the file system, shown or not."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    secret = tmp_path / "closed" / "secret"
    secret.parent.mkdir()
    secret.write_text("other's")
    for path, mode in ((secret, 0), (secret.parent, 0)):
        os.chown(path, 1234, 1234)
        path.chmod(mode)
    handle, folder = _handle(secret), os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _opened(folder, handle):
            pytest.skip("root opens nothing by handle here")
        assert _tried((*{*rights, _DAC_READ_SEARCH},), folder, handle, secret) == 0, "the trial finds it if it can"
        assert _tried(rights, folder, handle, secret) == errno.EPERM
    finally:
        os.close(folder)
