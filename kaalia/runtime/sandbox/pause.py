"""The image of the process that keeps a sandbox's network open: one program of a dozen bytes that waits. Pure.

kaalia makes it itself, byte for byte the same each time: no registry and no compiler is needed.
"""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

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
_CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class PauseImage:
    """`tar`: for the engine's load; it then knows the image by `tag`. `layer`: the id of its one layer."""

    layer: str
    tag: str
    tar: bytes


def program(processor: str) -> bytes:
    """A static ELF file of one loadable segment (man 5 elf). Raises KeyError for a processor that has none here."""
    number, _, code = _PROGRAMS[processor]
    size = _HEAD_BYTES + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEAD_BYTES, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + header + segment + code


def image(processor: str) -> PauseImage:
    """Raises KeyError for a processor that has none here."""
    layer = _tar({PATH.lstrip("/"): program(processor)}, 0o755)
    layer_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = {
        "architecture": _PROGRAMS[processor][1],
        "os": "linux",
        "created": _CREATED,
        "config": {"Entrypoint": [PATH]},
        "rootfs": {"type": "layers", "diff_ids": [layer_id]},
        "history": [{"created": _CREATED, "created_by": "kaalia"}],
    }
    content = json.dumps(config, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    tag = f"{REPOSITORY}:{digest[:12]}"
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    files = {f"{digest}.json": content, "layer.tar": layer, "manifest.json": manifest}
    return PauseImage(layer_id, tag, _tar(files, 0o644))


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
