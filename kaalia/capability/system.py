"""Processor, memory, board and operating system. Refuses to guess: what the machine does not tell is a gap."""

import platform
from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.host import processors
from kaalia.host import system as host
from kaalia.model.machine import Cpu, Memory, System

_X86 = "amd64"


def cpu(root: Path, gaps: Gaps) -> Cpu:
    architecture = host.architecture(platform.machine())
    flags = gaps.read("cpu.flags", lambda: host.cpu_flags(root))
    return Cpu(
        model=gaps.read("cpu.model", lambda: host.cpu_model(root)),
        architecture=architecture,
        logical_cores=host.cpu_logical_cores(),
        physical_cores=gaps.read("cpu.physical_cores", host.cpu_physical_cores),
        max_ghz=gaps.read("cpu.max_ghz", lambda: host.cpu_max_ghz(root)),
        has_avx=_has_avx(architecture, flags),
        flags=flags or (),
        base_ghz=gaps.read("cpu.base_ghz", lambda: processors.base_ghz(processors.first_block(root), root)),
    )


def memory() -> Memory:
    total_bytes, available_bytes = host.memory_bytes()
    return Memory(total_bytes, available_bytes)


def operating_system(root: Path, gaps: Gaps) -> System:
    return System(
        hostname=platform.node(),
        os_name=gaps.read("system.os_name", lambda: host.os_name(root)),
        kernel=platform.release(),
        board=gaps.read("system.board", lambda: host.board(root)),
        boot_id=gaps.read("system.boot_id", lambda: host.boot_id(root)) or "",
        booted_at=host.booted_at(),
    )


def _has_avx(architecture: str, flags: tuple[str, ...] | None) -> bool | None:
    """AVX is x86's own; elsewhere the answer is no, whatever the flags. None: the flags are not readable."""
    if architecture != _X86:
        return False
    return None if flags is None else "avx" in flags
