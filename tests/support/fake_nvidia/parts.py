"""What stays of simulated GPUs: figures of the models as in NVIDIA's data sheets, and how they are joined.

Used by profiles.machine; the keys are described in nvml.c, health.h and parts.h.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GEFORCE, TESLA, RTX, NVIDIA = 5, 2, 13, 14
VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = 5, 6, 7, 8, 9, 10
NODE, SYS, PHB = 40, 50, 30
OK, CHIPSET_NOT_SUPPORTED = 0, 1


@dataclass(frozen=True)
class Parts:
    """`nvlinks`: how many it has, and how many are up."""

    brand: int
    architecture: int
    cores: int
    bus_bits: int
    bar1_mb: int
    power_min_w: int
    device_id: int
    fans: int = 0
    ecc: bool | None = None
    mig: bool | None = None
    nvlinks: tuple[int, int] | None = None
    nvlink_version: int | None = None
    fabric: bool = False


PARTS = {
    "NVIDIA GeForce RTX 3060": Parts(GEFORCE, AMPERE, 3584, 192, 16384, 100, 0x2504, fans=2),
    "NVIDIA GeForce RTX 3090": Parts(GEFORCE, AMPERE, 10496, 384, 32768, 100, 0x2204, fans=2, nvlinks=(4, 0)),
    "NVIDIA GeForce RTX 4090": Parts(GEFORCE, ADA, 16384, 384, 32768, 150, 0x2684, fans=2),
    "NVIDIA GeForce RTX 5060 Ti": Parts(GEFORCE, BLACKWELL, 4608, 128, 16384, 150, 0x2D04, fans=1),
    "NVIDIA GeForce RTX 5090": Parts(GEFORCE, BLACKWELL, 21760, 512, 32768, 400, 0x2B85, fans=2, ecc=False),
    "NVIDIA RTX A6000": Parts(RTX, AMPERE, 10752, 384, 65536, 100, 0x2230, fans=1, ecc=True, nvlinks=(4, 0)),
    "NVIDIA RTX 6000 Ada Generation": Parts(RTX, ADA, 18176, 384, 65536, 100, 0x26B1, fans=1, ecc=True),
    "NVIDIA L40S": Parts(NVIDIA, ADA, 18176, 384, 65536, 100, 0x26B9, ecc=True),
    "Tesla T4": Parts(TESLA, TURING, 2560, 256, 256, 60, 0x1EB8, ecc=True),
    "Tesla V100-SXM2-16GB": Parts(
        *(TESLA, VOLTA, 5120, 4096, 16384, 150, 0x1DB1), ecc=True, nvlinks=(6, 6), nvlink_version=2
    ),
    "NVIDIA A100-SXM4-80GB": Parts(
        *(NVIDIA, AMPERE, 6912, 5120, 131072, 100, 0x20B2), ecc=True, mig=False, nvlinks=(12, 12), nvlink_version=3
    ),
    "NVIDIA A100-SXM4-40GB": Parts(
        *(NVIDIA, AMPERE, 6912, 5120, 65536, 100, 0x20B0), ecc=True, mig=False, nvlinks=(12, 12), nvlink_version=3
    ),
    "NVIDIA H100 80GB HBM3": Parts(
        *(NVIDIA, HOPPER, 16896, 5120, 131072, 200, 0x2330, 0, True, False, (18, 18), 4, True)
    ),
    "NVIDIA H100 PCIe": Parts(NVIDIA, HOPPER, 14592, 5120, 131072, 200, 0x2331, ecc=True, mig=False),
    "NVIDIA H200": Parts(*(NVIDIA, HOPPER, 16896, 6144, 262144, 200, 0x2335, 0, True, False, (18, 18), 4, True)),
    "NVIDIA B200": Parts(*(NVIDIA, BLACKWELL, 18944, 8192, 262144, 200, 0x2901, 0, True, False, (18, 18), 5, True)),
}


def values(index: int, name: str, power_w: int, seed: str) -> dict[str, object]:
    """Keys of one GPU. GeForce boards have no number; only boards of data centres have an InfoROM that tells."""
    parts = PARTS[name]
    told: dict[str, object | None] = {
        "brand": parts.brand,
        "architecture": parts.architecture,
        "cores": parts.cores,
        "bus_bits": parts.bus_bits,
        "bar1_mb": parts.bar1_mb,
        "power_min_mw": parts.power_min_w * 1000,
        "power_max_mw": power_w * 1000,
        "pci_device_id": f"0x{parts.device_id:04X}10DE",
        "pci_subsystem_id": "0x16F410DE",
        "vbios": "95.02.3C.80.00",
        "gsp": "570.133.20",
        "compute_mode": 0,
        "virtualization_mode": 0,
        "video_max_mhz": 1950,
        "fans": parts.fans or None,
        "ecc": _mode(parts.ecc),
        "mig": _mode(parts.mig),
        "fabric": "3 0 0" if parts.fabric else None,
        "nvlinks": _links(*parts.nvlinks) if parts.nvlinks else None,
        "nvlink_version": parts.nvlink_version,
    }
    if parts.brand != GEFORCE:
        number = int(hashlib.sha256(f"{seed}/{index}".encode()).hexdigest(), 16) % 10**13
        told |= {"serial": f"{number:013}", "part_number": "900-2G503-0000-000", "inforom": "G503.0203.00.05"}
    return {key: value for key, value in told.items() if value is not None}


def _mode(is_on: bool | None) -> str | None:
    """Now, and after the next reset."""
    return None if is_on is None else f"{int(is_on)} {int(is_on)}"


def _links(all_of_them: int, up: int) -> str:
    return " ".join(["1"] * up + ["0"] * (all_of_them - up))


def pairs(names: Sequence[str]) -> Iterator[str]:
    """Two sockets share the GPUs. What has NVLink sees each other; GeForce boards do not, on this chipset."""
    half = (len(names) + 1) // 2
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            links = bool(PARTS[names[first]].nvlink_version and PARTS[names[second]].nvlink_version)
            near = NODE if links else PHB
            yield f"gpu {first} path_{second} {near if (first < half) == (second < half) else SYS}"
            yield f"gpu {first} p2p_{second} {OK if links else CHIPSET_NOT_SUPPORTED}"
