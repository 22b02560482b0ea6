"""Machines for the simulated driver: real public figures of GPU models, and the faults a test puts on top.

    text = machine("2xRTX_4090") + fault("nvmlDeviceGetPowerUsage", "error 3")
    write(path, text)

`machine("1xRTX_3090+1xRTX_4090")` has mixed models. The format is described at the top of nvml.c.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from tests.support.fake_nvidia import parts

DRIVER_VERSION = "570.133.20"
CUDA_VERSION = 12080


@dataclass(frozen=True, slots=True)
class Model:
    """`name` and `vram_mb` (MiB) as NVML reports them; the rest as in NVIDIA's data sheets and nvidia-smi -q."""

    name: str
    vram_mb: int
    pci_gen: int
    pci_width: int
    power_w: int
    compute_capability: str
    sm_max_mhz: int
    memory_max_mhz: int
    gpu_max_c: int = 90


MODELS = {
    "RTX_3060": Model("NVIDIA GeForce RTX 3060", 12288, 4, 16, 170, "8.6", 2130, 7501, 93),
    "RTX_3090": Model("NVIDIA GeForce RTX 3090", 24576, 4, 16, 350, "8.6", 2100, 9751, 93),
    "RTX_4090": Model("NVIDIA GeForce RTX 4090", 24564, 4, 16, 450, "8.9", 3105, 10501),
    "RTX_5060Ti": Model("NVIDIA GeForce RTX 5060 Ti", 16311, 5, 8, 180, "12.0", 3090, 14001),
    "RTX_5090": Model("NVIDIA GeForce RTX 5090", 32607, 5, 16, 575, "12.0", 3090, 14001),
    "RTX_A6000": Model("NVIDIA RTX A6000", 49140, 4, 16, 300, "8.6", 2100, 8001, 93),
    "RTX_6000Ada": Model("NVIDIA RTX 6000 Ada Generation", 49140, 4, 16, 300, "8.9", 3105, 10001, 92),
    "L40S": Model("NVIDIA L40S", 46068, 4, 16, 350, "8.9", 2520, 9001, 92),
    "T4": Model("Tesla T4", 15360, 3, 16, 70, "7.5", 1590, 5001, 85),
    "V100": Model("Tesla V100-SXM2-16GB", 16384, 3, 16, 300, "7.0", 1530, 877, 83),
    "A100": Model("NVIDIA A100-SXM4-80GB", 81920, 4, 16, 400, "8.0", 1410, 1593, 92),
    "A100_40GB": Model("NVIDIA A100-SXM4-40GB", 40960, 4, 16, 400, "8.0", 1410, 1215, 92),
    "H100": Model("NVIDIA H100 80GB HBM3", 81559, 5, 16, 700, "9.0", 1980, 2619, 87),
    "H100_PCIE": Model("NVIDIA H100 PCIe", 81559, 5, 16, 350, "9.0", 1755, 1593, 87),
    "H200": Model("NVIDIA H200", 143771, 5, 16, 700, "9.0", 1980, 3201, 87),
    "B200": Model("NVIDIA B200", 183359, 5, 16, 1000, "10.0", 1965, 3996, 87),
}


def machine(spec: str, seed: str = "kaalia") -> str:
    """The profile of `NxMODEL[+NxMODEL...]`. `seed` makes the UUIDs: two machines need two seeds."""
    models = [model for part in spec.split("+") for model in _expand(part)]
    lines = [f"system driver {DRIVER_VERSION}", f"system nvml 12.{DRIVER_VERSION}", f"system cuda {CUDA_VERSION}"]
    lines.append(f"system count {len(models)}")
    for index, model in enumerate(models):
        values = _values(index, model, seed) | parts.values(index, model.name, model.power_w, seed)
        lines += [f"gpu {index} {key} {value}" for key, value in values.items()]
    lines += parts.pairs([model.name for model in models])
    return "\n".join(lines) + "\n"


def gpu_uuid(index: int, seed: str = "kaalia") -> str:
    """The UUID of GPU `index` in a profile made with `seed`."""
    return f"GPU-{uuid5(NAMESPACE_DNS, f'{seed}/{index}')}"


def fault(function: str, verb: str, gpu: int | None = None) -> str:
    """A fault line, such as `fault("nvmlInitWithFlags", "hang")` or `fault("nvmlDeviceGetName", "error 15", gpu=1)`."""
    return f"fault {function}{'' if gpu is None else f'[{gpu}]'} {verb}\n"


def setting(gpu: int, key: str, value: object) -> str:
    """A line that overrides `key` of one GPU: put it before the machine, the first line of a key counts."""
    return f"gpu {gpu} {key} {value}\n"


def without(text: str, key: str) -> str:
    """The profile less one key of all GPUs: its functions say "not supported"."""
    return re.sub(rf"^gpu \d+ {re.escape(key)} .*\n", "", text, flags=re.MULTILINE)


def well(text: str, count: int = 1) -> str:
    """The machine with every counter that tells how its GPUs are, and all of them well: a board with ECC and NVLink."""
    return "".join(setting(gpu, key, value) for gpu in range(count) for key, value in WELL.items()) + text


WELL: dict[str, object] = {
    "ecc": "1 1",
    "ecc_volatile_corrected": 0,
    "ecc_volatile_uncorrected": 0,
    "ecc_aggregate_uncorrected": 0,
    "sram_threshold_exceeded": 0,
    "remapped_rows": "0 0 0 0",
    "retired_single": 0,
    "retired_double": 0,
    "retired_pages_pending": 0,
    "clock_reasons": 1,
    "power_ns": 0,
    "thermal_ns": 0,
    "energy_mj": 0,
    "pcie_replays": 0,
    "nvlinks": "1 1 1 1",
    "nvlink_crc": 0,
    "nvlink_replays": 0,
    "nvlink_recoveries": 0,
    "fabric": "3 0 0",
    "mig": "0 0",
    "recovery_action": 0,
    "memory_c": 40,
    "memory_max_c": 95,
}
"""See health.h."""


def write(path: Path, text: str) -> None:
    """Replace the profile in one step: a call never reads half a file."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _expand(part: str) -> list[Model]:
    count, _, name = part.partition("x")
    if not count.isdigit() or name not in MODELS:
        raise ValueError(f"cannot simulate {part!r}: expected a count, x, and one of {', '.join(MODELS)}")
    return [MODELS[name]] * int(count)


def _values(index: int, model: Model, seed: str) -> dict[str, object]:
    return {
        "name": model.name,
        "uuid": gpu_uuid(index, seed),
        "minor": index,
        "pci_address": f"0000:{index * 0x10 + 1:02x}:00",
        "vram_mb": model.vram_mb,
        "vram_used_mb": 1,
        "pci_gen_max": model.pci_gen,
        "pci_gen": 1,
        "pci_width_max": model.pci_width,
        "pci_width": model.pci_width,
        "power_limit_mw": model.power_w * 1000,
        "power_default_mw": model.power_w * 1000,
        "power_mw": model.power_w * 60,
        "temperature_c": 34,
        "shutdown_c": model.gpu_max_c + 8,
        "slowdown_c": model.gpu_max_c + 5,
        "gpu_max_c": model.gpu_max_c,
        "graphics_mhz": 210,
        "sm_mhz": 210,
        "memory_mhz": 405,
        "graphics_max_mhz": model.sm_max_mhz,
        "sm_max_mhz": model.sm_max_mhz,
        "memory_max_mhz": model.memory_max_mhz,
        "compute_capability": model.compute_capability,
        "utilization_percent": 0,
        "memory_utilization_percent": 0,
        "display_active": 0,
        "persistence_mode": 1,
    }
