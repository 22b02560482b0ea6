"""The image of the process that keeps a sandbox's network open: one program of a dozen bytes that waits. Pure.

No registry and no compiler is needed.
"""

import struct

from kaalia.runtime import program_image
from kaalia.runtime.program_image import ProgramImage

_PROGRAMS = {
    # mov eax, 34 (pause); syscall; jmp to the beginning
    "x86_64": (62, "amd64", bytes.fromhex("b8220000000f05ebf7")),
    # mov x0..x4, 0; mov x8, 73 (ppoll); svc 0; b to the beginning
    "aarch64": (
        183,
        "arm64",
        struct.pack(
            "<8I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800004, 0xD2800928, 0xD4000001, 0x17FFFFF9
        ),
    ),
}
"""By processor: ELF's number, the image's word, machine code."""
PROCESSORS = frozenset(_PROGRAMS)
"""As `platform.machine` has them. On others each container holds its own network, as without sandboxes."""
_BASE, _HEAD_BYTES = 0x400000, 64 + 56
PATH = "/pause"
REPOSITORY = "kaalia.invalid/pause"
"""Of a registry that cannot exist (RFC 2606): no pull can move the tag to another image."""


def program(processor: str) -> bytes:
    """A static ELF file of one loadable segment (man 5 elf). Raises KeyError for a processor that has none here."""
    number, _, code = _PROGRAMS[processor]
    size = _HEAD_BYTES + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEAD_BYTES, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + header + segment + code


def image(processor: str) -> ProgramImage:
    """Raises KeyError for a processor that has none here."""
    return program_image.image(REPOSITORY, PATH, program(processor), _PROGRAMS[processor][1])
