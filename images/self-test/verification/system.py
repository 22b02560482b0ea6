"""The first stage: what the instance sees of the machine, held against the requirements of the public self-test."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from verification.settings import Limits, Settings

NVML_PROGRAM = Path(__file__).with_name("nvml.py")
NVML_DEADLINE_S = 60.0
MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Found:
    """`problem` empty: all requirements are met. `remedy`: what the owner does about it."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    remedy: str = ""


def examine(settings: Settings, say: Callable[[str], None], root: Path = Path("/")) -> Found:
    """Look at GPUs, memory and processor. What the driver does not tell within a minute is a failure of its own."""
    try:
        gpus = _gpus()
    except (OSError, ValueError) as error:
        return Found(problem=f"NVML: {error}", remedy=_DRIVER)
    except subprocess.TimeoutExpired:
        return Found(problem=f"NVML: no answer from the driver in {NVML_DEADLINE_S:.0f} s", remedy=_DRIVER)
    ram_mib, cores = memory_bytes(root) // MIB, physical_cores(root)
    for number, gpu in enumerate(gpus):
        say(f"GPU {number}: {gpu.name}, {gpu.free_bytes // MIB} of {gpu.total_bytes // MIB} MiB free")
    say(f"memory {ram_mib} MiB, {cores} physical cores")
    return Found(gpus, *judge(gpus, ram_mib, cores, settings.limits))


_DRIVER = "run nvidia-smi on the machine, and kaalia doctor there: driver, and NVIDIA's container toolkit"
_HELD = "see what holds it: nvidia-smi on the machine; end it"
_TOO_SMALL = "put in more, or test and list fewer of its GPUs"


def judge(gpus: tuple[Gpu, ...], ram_mib: int, cores: int, limits: Limits) -> tuple[str, str]:
    """The first requirement that is not met, in words, and what to do about it; empty when all are. Pure."""
    if not gpus:
        return "NVML: the instance sees no GPU", _DRIVER
    for number, gpu in enumerate(gpus):
        if gpu.free_bytes < limits.vram_free_share * gpu.total_bytes:
            free = gpu.free_bytes / max(gpu.total_bytes, 1)
            required = f"{limits.vram_free_share:.0%}"
            return f"system: GPU {number} has {free:.1%} of its memory free, required {required}", _HELD
    vram_mib = sum(gpu.total_bytes for gpu in gpus) / MIB
    ram_needed = min(limits.ram_share * vram_mib, limits.ram_cap_mib)
    if ram_mib < ram_needed:
        return f"system: the machine has {ram_mib} MiB of memory, required {ram_needed:.0f} MiB", _TOO_SMALL
    if cores < limits.cores_per_gpu * len(gpus):
        return f"system: {cores} physical cores, required {limits.cores_per_gpu * len(gpus)}", _TOO_SMALL
    return "", ""


def memory_bytes(root: Path) -> int:
    """Of the whole machine, as the preflight counts it: the instance's own limit leaves the host something."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def physical_cores(root: Path) -> int:
    """Threads of one core count once; where the kernel tells no cores, each processor is one."""
    text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    processors = [dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", part, re.MULTILINE)) for part in text.split("\n\n")]
    processors = [one for one in processors if "processor" in one]
    named = {(one["physical id"], one["core id"]) for one in processors if {"physical id", "core id"} <= one.keys()}
    return len(named) or len(processors)


def _gpus() -> tuple[Gpu, ...]:
    """By a child: a call to the driver may hang, or end its process."""
    asking = [sys.executable, "-I", "-S", str(NVML_PROGRAM)]
    done = subprocess.run(asking, capture_output=True, text=True, timeout=NVML_DEADLINE_S, check=False)
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        raise OSError(f"the driver's library ended its process by {how}")
    told = json.loads(done.stdout.splitlines()[-1] if done.stdout.strip() else "{}")
    if "problem" in told or "gpus" not in told:
        raise OSError(told.get("problem") or "the driver's library says nothing")
    return tuple(Gpu(**one) for one in told["gpus"])
