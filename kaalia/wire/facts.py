"""What offers, machines and instances say alike about the hardware: a capability report in the public API's spelling.

A value that nobody measured is null, but what follows from a GPU's model by the data of `gpu_figures`.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kaalia.contracts.query import driver_number
from kaalia.model.machine import Benchmarks, Gpu, MachineReport
from kaalia.units import GB, MIB
from kaalia.wire import gpu_figures
from kaalia.wire.gpu_figures import Derived

GPUS_MAX = 256
"""The largest single machines have 16; each GPU makes offers, so that a number must end somewhere."""
NAME_MAX_CHARS = 96
"""Of a GPU, or its UUID: as long as NVML's names are at most."""
SPEED_MAX_MBPS = 1_000_000
"""No machine's line is faster than a terabit a second yet."""
BENCHMARK_MAX = 1e9
"""No benchmark of this century gives more."""
SIMULATED = " (simulated)"
"""Behind every GPU name of a simulated driver."""

_NAME_RULES: tuple[tuple[str, str], ...] = (
    (r"^NVIDIA ", ""),
    (r"^GeForce (?=[RG]TX|GT )", ""),
    (r"^Quadro RTX ", "Q RTX "),
    (r"^TITAN (?=Xp?\b|V$|RTX)", "Titan "),
    (r"^(Titan X) \(.*\)$", r"\1"),
    (r" Generation\b", ""),
    (r" Laptop GPU$", " laptop"),
    (r"^(RTX \d+) Ada\b", r"\1Ada"),
    (r"^(RTX \d+) Ti SUPER", r"\1S Ti"),
    (r"^(RTX \d+) SUPER", r"\1S"),
    (r"^(GTX \d+) SUPER", r"\1 S"),
    (r"^(RTX \d+) D\b", r"\1D"),
    (r"^(RTX PRO \d+) Blackwell\b", r"\1"),
    (r"^(RTX PRO \d+) Max-Q Workstation Edition$", r"\1 Max-Q"),
    (r"^(RTX PRO \d+) Workstation Edition$", r"\1 WS"),
    (r"^(RTX PRO \d+) Server Edition$", r"\1 S"),
    (r"^(RTX PRO \d+) laptop$", r"\1 Mobile"),
    (r"^(Tesla \w+)-(?:SXM\d?|PCI-?E|FHHL|DGXS|LS).*$", r"\1"),
    (r"^([AH]\d{3})-(SXM\d?|PCIE)-\d+GB$", r"\1 \2"),
    (r"^([AH]\d{3})(?: \d+GB)? PCIe$", r"\1 PCIE"),
    (r"^(H\d{3}) \d+GB HBM\w+$", r"\1 SXM"),
    (r"^(GH200) \d+GB.*$", r"\1 SXM"),
    (r"^A10G$", "A10g"),
)
"""Applied in order to NVML's product name; the results are the names that the public client lists and completes."""


@lru_cache(maxsize=1024)
def gpu_name(product_name: str) -> str:
    """NVML's product name as users know it: `NVIDIA GeForce RTX 4070 Ti SUPER` is `RTX 4070S Ti`."""
    name = product_name.strip()
    for pattern, replacement in _NAME_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def plain_gpu_name(name: str) -> str:
    """Without the mark of a simulated driver: what filters compare."""
    return name.removesuffix(SIMULATED)


def encode(report: MachineReport) -> dict[str, Any]:
    """The whole machine. GPU numbers are those of the weakest GPU; sizes in MB are MiB, as the real service counts."""
    system, network = report.system, report.network
    return {
        **_gpus(report),
        **_cpu(report),
        **_driver(report),
        "mobo_name": system.board,
        "os_version": _release(system.os_name),
        "ubuntu_version": _release(system.os_name) if (system.os_name or "").startswith("Ubuntu") else None,
        "public_ipaddr": network.public_ip,
        "direct_port_count": len(network.port_range) if network.proven is None else network.proven.tcp,
        "inet_down": round(network.speed.down.mbps, 1) if network.speed else None,
        "inet_up": round(network.speed.up.mbps, 1) if network.speed else None,
        "disk_name": report.disk.model if report.disk else None,
        **_figures(report.gpus),
        **_benchmarks(report.benchmarks),
        **dict.fromkeys(_FROM_OUTSIDE),
    }


COPIES = "device_bandwidth_gbps"
"""The figure of a self-test that `dlperf` is reckoned from: what the slowest GPU copies within itself."""


def measured_dlperf(report: MachineReport, figures: Mapping[str, float]) -> float | None:
    """Of all GPUs, by what a self-test measured; None: it measured no GPU, or the model is not known."""
    copied = figures.get(COPIES)
    if copied is None or not report.gpus or (report.driver is not None and report.driver.simulated):
        return None
    found = [gpu_figures.measured_dlperf(gpu, gpu_name(gpu.name), copied) for gpu in report.gpus]
    each = _least_derived(found)
    return None if each is None else round(each * len(report.gpus), 1)


def fault(report: MachineReport) -> str | None:
    """Why a report is not that of a machine; None for one that offers can be made of."""
    ports, disk, proven = report.network.port_range, report.disk, report.network.proven
    speed = report.network.speed
    public_ip = report.network.public_ip
    addresses = (*(() if public_ip is None else (public_ip,)), *report.network.local_ips)
    nowhere = next((text for text in addresses if not _is_address(text)), None)
    sizes = [report.memory.total_bytes, *(gpu.vram_mb for gpu in report.gpus)]
    sizes += [disk.total_bytes, disk.free_bytes, disk.others_bytes or 0] if disk else []
    checks = (
        (len(report.gpus) > GPUS_MAX, f"it has {len(report.gpus)} GPUs, more than {GPUS_MAX}"),
        (len({gpu.uuid for gpu in report.gpus}) < len(report.gpus), "two of its GPUs have the same UUID"),
        (any(not is_name(text) for gpu in report.gpus for text in (gpu.uuid, gpu.name)), "a GPU of it has no name"),
        # Renters' programs and other machines connect to it.
        (nowhere is not None, f"{(nowhere or '')[:60]!r} is no address of a machine"),
        (not 0 < ports.first <= ports.last < 65536, f"{ports.first}-{ports.last} is no range of ports"),
        (
            proven is not None and not 0 <= proven.tcp <= ports.last - ports.first + 1,
            "it proves more ports than its range has",
        ),
        (
            speed is not None and not all(0 < one.mbps <= SPEED_MAX_MBPS for one in (speed.down, speed.up)),
            f"no line has the speed that it names, up to {SPEED_MAX_MBPS} Mb/s",
        ),
        (
            any(not 0 < one <= BENCHMARK_MAX for one in _numbers(report)),
            f"a measurement of it is no number above 0, up to {BENCHMARK_MAX:g}",
        ),
        (report.cpu.logical_cores < 1, f"it has {report.cpu.logical_cores} processors"),
        (min(sizes) < 0, f"it has a size of {min(sizes)}"),
    )
    return next((why for is_fault, why in checks if is_fault), None)


def _numbers(report: MachineReport) -> list[float]:
    """What offers show of what the machine says to have measured or counted."""
    found = report.benchmarks
    told = [getattr(found, name) for name in found.__dataclass_fields__] if found else []
    told += [value for gpu in report.gpus for value in (gpu.cores, gpu.memory_bus_bits)]
    return [value for value in told if value is not None]


def is_name(text: str, longest: int = NAME_MAX_CHARS) -> bool:
    """Short, of one line, and without what databases and terminals do not take."""
    return 0 < len(text) <= longest and text.isprintable()


def _is_address(text: str) -> bool:
    """Without a zone, which may be any text."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or "%" in text)


_FROM_OUTSIDE = ("geolocation", "geolocode", "static_ip")
"""What a machine does not know of itself."""


def disk_space_gb(report: MachineReport) -> int | None:
    return report.disk.total_bytes // GB if report.disk else None


_MAKES_FIGURES = (
    *("name", "cores", "sm_clock_max_mhz", "memory_bus_bits", "memory_clock_max_mhz", "nvlinks", "nvlink_version"),
)
"""What figures follow from: eight GPUs that agree in it are looked up once."""


def _figures(gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    """What follows from the models, see `gpu_figures`: those that grow with their number are of all GPUs."""
    kinds = {tuple(getattr(gpu, field) for field in _MAKES_FIGURES): gpu for gpu in gpus}.values()
    named = [(gpu, gpu_name(gpu.name)) for gpu in kinds]
    tflops = _least_derived([gpu_figures.fp32_tflops(gpu, name) for gpu, name in named])
    dlperf = _least_derived([gpu_figures.dlperf(gpu, name) for gpu, name in named])
    return {
        "gpu_mem_bw": _least_derived([gpu_figures.memory_gbps(gpu, name) for gpu, name in named]),
        "bw_nvlink": _least_derived([gpu_figures.nvlink_gbps(gpu) for gpu, _ in named]),
        "total_flops": None if tflops is None else round(tflops * len(gpus), 1),
        "dlperf": None if dlperf is None else round(dlperf * len(gpus), 1),
    }


def _least_derived(found: list[Derived | None]) -> float | None:
    """None as soon as one GPU is not known."""
    known = [one.value for one in found if one is not None]
    return min(known) if known and len(known) == len(found) else None


def _benchmarks(measured: Benchmarks | None) -> dict[str, Any]:
    return {
        "pcie_bw": measured.pcie_gbps if measured else None,
        "disk_bw": measured.disk_read_mbps if measured else None,
    }


def _gpus(report: MachineReport) -> dict[str, Any]:
    gpus = report.gpus
    capabilities = [gpu.compute_capability for gpu in gpus if gpu.compute_capability]
    shown = [gpu.display_active for gpu in gpus if gpu.display_active is not None]
    return {
        "num_gpus": len(gpus),
        "gpu_name": _names(report),
        "gpu_arch": "nvidia" if gpus else None,
        "gpu_ram": min((gpu.vram_mb for gpu in gpus), default=0),
        "gpu_lanes": _least(gpus, "pci_width_current", "pci_width_max"),
        "pci_gen": _least(gpus, "pci_gen_max"),
        "gpu_max_power": _least(gpus, "power_limit_w"),
        "gpu_max_temp": _least(gpus, "temperature_limit_c"),
        "compute_cap": min((100 * major + 10 * minor for major, minor in capabilities), default=None),
        "gpu_display_active": any(shown) if shown else None,
    }


def _names(report: MachineReport) -> str | None:
    names = sorted({gpu_name(gpu.name) for gpu in report.gpus})
    simulated = report.driver is not None and report.driver.simulated
    return " + ".join(names) + (SIMULATED if simulated else "") if names else None


def _least(gpus: tuple[Gpu, ...], *fields: str) -> Any:
    """The smallest value over all GPUs, of the first of the fields that each one knows."""
    values = [next((getattr(gpu, name) for name in fields if getattr(gpu, name) is not None), None) for gpu in gpus]
    return min((value for value in values if value is not None), default=None)


def _cpu(report: MachineReport) -> dict[str, Any]:
    cpu = report.cpu
    return {
        "cpu_name": cpu.model,
        "cpu_arch": cpu.architecture,
        "cpu_cores": cpu.logical_cores,
        "cpu_ghz": _ghz(report),
        "has_avx": None if cpu.has_avx is None else int(cpu.has_avx),
        "cpu_ram": report.memory.total_bytes // MIB,
    }


def _ghz(report: MachineReport) -> float | None:
    """The highest, as the real service has it; in a virtual machine, which does not tell it, what was measured."""
    measured = report.benchmarks.cpu_ghz if report.benchmarks else None
    return report.cpu.max_ghz or measured or report.cpu.base_ghz


def _driver(report: MachineReport) -> dict[str, Any]:
    driver = report.driver
    cuda = _release(driver.cuda_version) if driver else None
    return {
        "driver_version": driver.version if driver else None,
        "driver_vers": driver_number(driver.version) if driver else None,
        "cuda_max_good": None if cuda is None else float(gpu_figures.cuda_max(cuda, report.gpus)),
    }


def _release(name: str | None) -> str | None:
    """`Ubuntu 22.04.5 LTS` is release 22.04."""
    found = re.search(r"\d{1,9}(?:\.\d{1,9})?", name or "", re.ASCII)
    return found[0] if found else None
