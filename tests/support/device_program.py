"""A cgroup of the second version whose device program forbids everything: what systemd's daemon-reload amounts to."""

import ctypes
import os
import struct
from pathlib import Path

_BPF = {"x86_64": 321, "aarch64": 280}
_LOAD, _ATTACH = 5, 8
_CGROUP_DEVICE = 15
"""BPF_PROG_TYPE_CGROUP_DEVICE (linux/bpf.h)."""
_ATTACH_DEVICE = 6
"""BPF_CGROUP_DEVICE."""
_REFUSE = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
"""r0 = 0; exit"""


def forbid_devices(cgroup: Path) -> None:
    """Raises OSError where the kernel has no such programs. It holds as long as the cgroup."""
    instructions, licence = ctypes.create_string_buffer(_REFUSE), ctypes.create_string_buffer(b"GPL")
    places = (ctypes.addressof(instructions), ctypes.addressof(licence))
    program = _bpf(_LOAD, struct.pack("<IIQQ", _CGROUP_DEVICE, len(_REFUSE) // 8, *places))
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _bpf(_ATTACH, struct.pack("<IIII", folder, program, _ATTACH_DEVICE, 0))
    finally:
        os.close(folder)
        os.close(program)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    done = int(libc.syscall(_BPF[os.uname().machine], command, words, 144))
    if done < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return done
