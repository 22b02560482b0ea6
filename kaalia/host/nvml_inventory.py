"""The same child as nvml_probe.py, which also answers `inventory`: what stays of GPUs, and how they are joined.

A script of its own, so that the reading of each minute does not load it. An answer: {"gpus": [{"index", "uuid",
"errors", and the keys of PARTS}], "pairs": [{"first", "second", "errors", "path", "read", "write", "nvlinks"}]}.
"""

import ctypes
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pynvml

from kaalia.host import nvml_probe

P2P_GPUS_MAX = 32
"""Pairs grow with the square; no machine has more GPUs that see each other."""
_READ, _WRITE = 0, 1
"""NVML_P2P_CAPS_INDEX_*: pynvml 13 spells the first one as a tuple."""

_BRANDS = {
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    12: "Quadro RTX",
    13: "NVIDIA RTX",
    14: "NVIDIA",
    15: "GeForce RTX",
    16: "Titan RTX",
}
_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
_VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host vgpu", 4: "host vsga"}
_FABRIC = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}
_PATHS = {0: "INT", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_P2P = {
    0: "ok",
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by a setting of the driver",
    5: "not supported",
}
"""Words for the numbers of nvml.h; a number without a word is shown itself."""

Reader = Callable[[Any], Any]
Address = tuple[int, int, int]
"""On the PCI bus: domain, bus, device."""


def _text(call: Reader) -> Reader:
    def read(gpu: Any) -> str:
        value = call(gpu)
        return value.decode() if isinstance(value, bytes) else str(value)

    return read


def _word(call: Reader, words: dict[int, str]) -> Reader:
    def read(gpu: Any) -> str:
        number = int(call(gpu))
        return words.get(number, f"number {number}")

    return read


def _serial_sha256(gpu: Any) -> str:
    serial = pynvml.nvmlDeviceGetSerial(gpu)
    return hashlib.sha256(serial if isinstance(serial, bytes) else serial.encode()).hexdigest()


def _pci_id(field: str) -> Reader:
    def read(gpu: Any) -> str:
        number = int(getattr(pynvml.nvmlDeviceGetPciInfo(gpu), field))
        return f"{number >> 16:04x}:{number & 0xFFFF:04x}"

    return read


def _device_gen_max(gpu: Any) -> int:
    return int(pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration(gpu))


def _fabric(gpu: Any) -> str:
    """Of the NVSwitches: `completed` when the fabric manager has let this GPU in."""
    try:
        info = pynvml.c_nvmlGpuFabricInfoV_t()
        pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    except (pynvml.NVMLError_FunctionNotFound, AttributeError):  # a driver before 545
        info = pynvml.c_nvmlGpuFabricInfo_t()
        pynvml.nvmlDeviceGetGpuFabricInfo(gpu, ctypes.byref(info))
    state = int(info.state) & 0xFF  # one byte in nvml.h, four in pynvml
    return _FABRIC.get(state, f"number {state}")


_known_links: dict[int, list[bool]] = {}
_known_ends: dict[int, list[Address | None]] = {}
"""By handle, of one inventory: all pairs of GPUs ask for them."""


def _links(gpu: Any) -> list[bool]:
    """Each link that the GPU has: is it up? Numbers beyond the last one are refused by the driver."""
    key = _number(gpu)
    if key not in _known_links:
        found: list[bool] = []
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            try:
                found.append(bool(pynvml.nvmlDeviceGetNvLinkState(gpu, link)))
            except (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NotSupported):
                break
        _known_links[key] = found
    return _known_links[key]


def _ends(gpu: Any) -> list[Address | None]:
    """What is at the other end of each link that is up."""
    key = _number(gpu)
    if key not in _known_ends:
        _known_ends[key] = [_remote_address(gpu, link) for link, is_up in enumerate(_links(gpu)) if is_up]
    return _known_ends[key]


def _number(gpu: Any) -> int:
    return int(ctypes.cast(gpu, ctypes.c_void_p).value or 0)


def _nvlink_version(gpu: Any) -> int | None:
    up = [link for link, is_up in enumerate(_links(gpu)) if is_up]
    return int(pynvml.nvmlDeviceGetNvLinkVersion(gpu, up[0])) if up else None


def _remote_address(gpu: Any, link: int) -> Address | None:
    try:
        info = pynvml.nvmlDeviceGetNvLinkRemotePciInfo(gpu, link)
    except pynvml.NVMLError:
        return None
    return int(info.domain), int(info.bus), int(info.device)


def _limit_w(which: int) -> Reader:
    return lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)[which] / 1000


def _mode(name: str, which: int) -> Reader:
    return lambda gpu: bool(getattr(pynvml, name)(gpu)[which])


def _clock_max(kind: int) -> Reader:
    return lambda gpu: int(pynvml.nvmlDeviceGetMaxClockInfo(gpu, kind))


def _threshold(kind: int) -> Reader:
    return lambda gpu: int(pynvml.nvmlDeviceGetTemperatureThreshold(gpu, kind))


PARTS: dict[str, Reader] = {
    "uuid": pynvml.nvmlDeviceGetUUID,
    "serial_sha256": _serial_sha256,
    "minor_number": pynvml.nvmlDeviceGetMinorNumber,
    "brand": _word(pynvml.nvmlDeviceGetBrand, _BRANDS),
    "architecture": _word(pynvml.nvmlDeviceGetArchitecture, _ARCHITECTURES),
    "board_part_number": _text(pynvml.nvmlDeviceGetBoardPartNumber),
    "pci_device_id": _pci_id("pciDeviceId"),
    "pci_subsystem_id": _pci_id("pciSubSystemId"),
    "vbios_version": _text(pynvml.nvmlDeviceGetVbiosVersion),
    "inforom_version": _text(pynvml.nvmlDeviceGetInforomImageVersion),
    "gsp_firmware": _text(pynvml.nvmlDeviceGetGspFirmwareVersion),
    "cores": pynvml.nvmlDeviceGetNumGpuCores,
    "memory_bus_bits": pynvml.nvmlDeviceGetMemoryBusWidth,
    "bar1_total_mb": lambda gpu: pynvml.nvmlDeviceGetBAR1MemoryInfo(gpu).bar1Total >> 20,
    "pci_gen_device_max": _device_gen_max,
    "power_min_w": _limit_w(0),
    "power_max_w": _limit_w(1),
    "power_default_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1000,
    "power_enforced_w": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    "graphics_clock_max_mhz": _clock_max(pynvml.NVML_CLOCK_GRAPHICS),
    "video_clock_max_mhz": _clock_max(pynvml.NVML_CLOCK_VIDEO),
    "temperature_slowdown_c": _threshold(pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
    "temperature_shutdown_c": _threshold(pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
    "fans": pynvml.nvmlDeviceGetNumFans,
    "ecc_mode": _mode("nvmlDeviceGetEccMode", 0),
    "ecc_mode_pending": _mode("nvmlDeviceGetEccMode", 1),
    "mig_mode": _mode("nvmlDeviceGetMigMode", 0),
    "mig_mode_pending": _mode("nvmlDeviceGetMigMode", 1),
    "persistence_mode": lambda gpu: bool(pynvml.nvmlDeviceGetPersistenceMode(gpu)),
    "compute_mode": _word(pynvml.nvmlDeviceGetComputeMode, _COMPUTE_MODES),
    "virtualization_mode": _word(pynvml.nvmlDeviceGetVirtualizationMode, _VIRTUALIZATION),
    "fabric_state": _fabric,
    "nvlinks": lambda gpu: sum(_links(gpu)),
    "nvlinks_max": lambda gpu: len(_links(gpu)),
    "nvlink_version": _nvlink_version,
}
"""Named as in kaalia.model.inventory.GpuParts, in its units."""


def inventory() -> dict[str, Any]:
    """One reading of all GPUs; the driver is let go at its end."""
    _known_links.clear()
    _known_ends.clear()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"gpus": [], "pairs": [], "reason": nvml_probe._name(error)}
    try:
        handles = _handles(pynvml.nvmlDeviceGetCount())
        gpus = [_gpu(index, handle) for index, handle in handles]
        pairs = [_pair(one, other) for one, other in itertools.combinations(handles[:P2P_GPUS_MAX], 2)]
    except pynvml.NVMLError as error:
        return {"gpus": [], "pairs": [], "reason": nvml_probe._name(error)}
    finally:
        nvml_probe._release()
    return {"gpus": gpus, "pairs": pairs}


def _handles(count: int) -> list[tuple[int, Any]]:
    """A GPU that has no handle is told by the reading of each minute."""
    found = []
    for index in range(count):
        try:
            found.append((index, pynvml.nvmlDeviceGetHandleByIndex(index)))
        except pynvml.NVMLError:
            continue
    return found


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    return {"index": index} | nvml_probe._fields(PARTS, lambda reader: reader(handle))


def _pair(one: tuple[int, Any], other: tuple[int, Any]) -> dict[str, Any]:
    (first, a), (second, b) = one, other
    readers: dict[str, Callable[[], Any]] = {
        "path": lambda: _PATHS.get(pynvml.nvmlDeviceGetTopologyCommonAncestor(a, b)),
        "read": lambda: _p2p(a, b, _READ),
        "write": lambda: _p2p(a, b, _WRITE),
        "nvlinks": lambda: _direct_links(a, b),
    }
    return {"first": first, "second": second} | nvml_probe._fields(readers, lambda reader: reader())


def _p2p(a: Any, b: Any, index: int) -> str:
    number = int(pynvml.nvmlDeviceGetP2PStatus(a, b, index))
    return _P2P.get(number, f"number {number}")


def _direct_links(a: Any, b: Any) -> int:
    """Links of the one whose other end is the other; through an NVSwitch there are none."""
    info = pynvml.nvmlDeviceGetPciInfo(b)
    target = (int(info.domain), int(info.bus), int(info.device))
    return _ends(a).count(target)


if __name__ == "__main__":
    nvml_probe.ANSWERS["inventory"] = inventory
    nvml_probe.main()
