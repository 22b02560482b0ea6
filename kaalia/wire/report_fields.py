"""Every field of the full report: its unit, its kind, how it is got. Document, schema and docs/report.md follow.

A field's name is that of the attribute of its section's dataclass, unless the section derives or measures it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """`kind`: text, integer, number, flag, moment, texts, or records (of `columns`). `absent`: why there is none where
    nothing more is known."""

    name: str
    kind: str
    unit: str
    method: str
    absent: str = "this machine does not tell it"
    columns: tuple[tuple[str, str], ...] = ()


NOT_MEASURED = "not measured yet: kaalia report --measure {bench}"
_CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq"
_SMBIOS = "SMBIOS type 17"
_INVENTORY = "the inventory has not been read yet"
_SMART = "smartctl"
_CUDA = "copies of pinned memory by the CUDA driver, 64 MiB each"


def _measured(name: str, unit: str, method: str, bench: str) -> Field:
    return Field(name, "number", unit, method, NOT_MEASURED.format(bench=bench))


SYSTEM = (
    Field("hostname", "text", "name", "uname"),
    Field("os_name", "text", "name", "/etc/os-release PRETTY_NAME"),
    Field("kernel", "text", "version", "uname"),
    Field("board", "text", "name", "DMI board_vendor and board_name, or the device tree's model"),
    Field("boot_id", "text", "identifier", "/proc/sys/kernel/random/boot_id"),
    Field("booted_at", "moment", "time", "/proc/stat btime"),
)
CPU = (
    Field("model", "text", "name", "/proc/cpuinfo"),
    Field("architecture", "text", "name", "uname, in the words of container images"),
    Field("vendor", "text", "name", "/proc/cpuinfo", _INVENTORY),
    Field("family", "integer", "number", "/proc/cpuinfo", _INVENTORY),
    Field("model_number", "integer", "number", "/proc/cpuinfo", _INVENTORY),
    Field("stepping", "integer", "number", "/proc/cpuinfo", _INVENTORY),
    Field("microcode", "text", "version", "/proc/cpuinfo", _INVENTORY),
    Field("sockets", "integer", "count", "sysfs topology/physical_package_id", _INVENTORY),
    Field("physical_cores", "integer", "count", "psutil, by the kernel's topology"),
    Field("logical_cores", "integer", "count", "psutil, by the kernel's topology"),
    Field("threads_per_core", "integer", "count", "sysfs topology/thread_siblings_list", _INVENTORY),
    Field("base_ghz", "number", "GHz", f"{_CPUFREQ}/base_frequency, or the maker's name of the CPU"),
    Field("max_ghz", "number", "GHz", "sysfs cpufreq/cpuinfo_max_freq, the fastest core"),
    Field("min_ghz", "number", "GHz", f"{_CPUFREQ}/cpuinfo_min_freq", _INVENTORY),
    Field("current_ghz", "number", "GHz", "/proc/cpuinfo, the first processor at that moment", _INVENTORY),
    Field("governor", "text", "name", f"{_CPUFREQ}/scaling_governor", _INVENTORY),
    Field("has_avx", "flag", "yes or no", "/proc/cpuinfo flags"),
    Field("flags", "texts", "names", "/proc/cpuinfo flags of the first processor"),
    Field(
        *("caches", "records", "bytes_each: bytes", "sysfs cpu0/cache", _INVENTORY),
        columns=(("level", "integer"), ("kind", "text"), ("bytes_each", "integer"), ("count", "integer")),
    ),
    Field(
        *("numa_nodes", "records", "memory_bytes: bytes", "sysfs devices/system/node", _INVENTORY),
        columns=(("number", "integer"), ("cpus", "text"), ("memory_bytes", "integer")),
    ),
)
MEMORY = (
    Field("total_bytes", "integer", "bytes", "/proc/meminfo MemTotal"),
    Field("available_bytes", "integer", "bytes", "/proc/meminfo MemAvailable"),
    Field("swap_bytes", "integer", "bytes", "/proc/meminfo SwapTotal", _INVENTORY),
    Field("slots", "integer", "count", "SMBIOS type 16", _INVENTORY),
    Field("error_correction", "text", "name", "SMBIOS type 16", _INVENTORY),
    Field("kind", "text", "name", _SMBIOS, _INVENTORY),
    Field("speed_mts", "integer", "MT/s", f"{_SMBIOS}, the slowest module as it is set up", _INVENTORY),
    Field(
        *("modules", "records", "total_bytes: bytes, speed_mts: MT/s", _SMBIOS, _INVENTORY),
        columns=(
            *(("slot", "text"), ("total_bytes", "integer"), ("kind", "text")),
            *(("speed_mts", "integer"), ("maker", "text")),
        ),
    ),
)
DISK = (
    Field("path", "text", "path", "Docker's data root"),
    Field("total_bytes", "integer", "bytes", "df"),
    Field("free_bytes", "integer", "bytes", "df, without root's reserve"),
    Field("filesystem", "text", "name", "df"),
    Field("device", "text", "name", "df"),
    Field("model", "text", "name", "sysfs device/model of the drives beneath"),
    Field("volume_backend", "text", "name", "file system and mount options: how volumes are held to their size"),
    Field("others_bytes", "integer", "bytes", "ledger of the disk", "not measured yet: kaalia disk"),
)
DRIVES = (
    Field("name", "text", "name", "/sys/block"),
    Field("kind", "text", "nvme, ssd or hdd", "sysfs name and queue/rotational"),
    Field("total_bytes", "integer", "bytes", "sysfs size"),
    Field("model", "text", "name", "sysfs device/model"),
    Field("firmware", "text", "version", "sysfs device/firmware_rev"),
    Field("holds_docker", "flag", "yes or no", "sysfs: the data root's device, through RAID, volumes and partitions"),
    Field("passed", "flag", "yes or no", f"{_SMART}: the drive's own verdict"),
    Field("wear_percent", "integer", "%", f"{_SMART}: of the endurance that its maker names"),
    Field("temperature_c", "integer", "°C", _SMART),
    Field("power_on_hours", "integer", "h", _SMART),
    Field("media_errors", "integer", "count", f"{_SMART}: NVMe media errors, or sectors lost or about to be"),
)
NETWORK = (
    Field("public_ip", "text", "address", "configuration, default route, or as the marketplace sees it"),
    Field("local_ips", "texts", "addresses", "the kernel's addresses and routes"),
    Field("port_first", "integer", "port", "configuration"),
    Field("port_last", "integer", "port", "configuration"),
    Field("proven_tcp", "integer", "count", "a prober outside", "no prober has tried the ports at this address yet"),
    Field("proven_udp", "integer", "count", "a prober outside", "no prober has tried the ports at this address yet"),
    Field("down_mbps", "number", "Mb/s", "speed test with a peer", "not measured yet: kaalia speedtest"),
    Field("up_mbps", "number", "Mb/s", "speed test with a peer", "not measured yet: kaalia speedtest"),
)
NICS = (
    Field("name", "text", "name", "/sys/class/net"),
    Field("driver", "text", "name", "sysfs device/driver"),
    Field("speed_mbps", "integer", "Mb/s", "sysfs speed of the link", "the link is down, or virtual"),
    Field("mtu", "integer", "bytes", "sysfs mtu"),
    Field("pci_address", "text", "PCI address", "sysfs device", "it is no PCI device"),
)
ENGINE = (
    Field("version", "text", "version", "Docker API /version"),
    Field("api_version", "text", "version", "Docker API /version"),
    Field("storage_driver", "text", "name", "Docker API /info"),
    Field("data_root", "text", "path", "Docker API /info"),
    Field("cgroup_version", "text", "version", "Docker API /info"),
    Field("live_restore", "flag", "yes or no", "Docker API /info"),
    Field("enforces_disk_size", "flag", "yes or no", "storage driver, file system and mount options"),
    Field("gpu_mode", "text", "cdi, device_request or none", "Docker API /info, and dockerd's PATH"),
)
DRIVER = (
    Field("version", "text", "version", "NVML nvmlSystemGetDriverVersion"),
    Field("cuda_version", "text", "version", "NVML nvmlSystemGetCudaDriverVersion"),
    Field("simulated", "flag", "yes or no", "a symbol that only kaalia's stand-in exports"),
)
_GPU_NOW = (
    Field("uuid", "text", "identifier", "NVML nvmlDeviceGetUUID"),
    Field("index", "integer", "number", "NVML's order"),
    Field("name", "text", "name", "NVML nvmlDeviceGetName"),
    Field("vram_mb", "integer", "MiB", "NVML nvmlDeviceGetMemoryInfo"),
    Field("vram_used_mb", "integer", "MiB", "NVML nvmlDeviceGetMemoryInfo"),
    Field("pci_address", "text", "PCI address", "NVML nvmlDeviceGetPciInfo"),
    Field("pci_gen_max", "integer", "generation", "NVML nvmlDeviceGetMaxPcieLinkGeneration, or sysfs"),
    Field("pci_gen_current", "integer", "generation", "NVML nvmlDeviceGetCurrPcieLinkGeneration, or sysfs"),
    Field("pci_width_max", "integer", "lanes", "NVML nvmlDeviceGetMaxPcieLinkWidth, or sysfs"),
    Field("pci_width_current", "integer", "lanes", "NVML nvmlDeviceGetCurrPcieLinkWidth, or sysfs"),
    Field("power_limit_w", "number", "W", "NVML nvmlDeviceGetPowerManagementLimit"),
    Field("power_draw_w", "number", "W", "NVML nvmlDeviceGetPowerUsage"),
    Field("temperature_c", "integer", "°C", "NVML nvmlDeviceGetTemperature"),
    Field("temperature_limit_c", "integer", "°C", "NVML nvmlDeviceGetTemperatureThreshold, GPU max or slowdown"),
    Field("sm_clock_mhz", "integer", "MHz", "NVML nvmlDeviceGetClockInfo"),
    Field("sm_clock_max_mhz", "integer", "MHz", "NVML nvmlDeviceGetMaxClockInfo"),
    Field("memory_clock_max_mhz", "integer", "MHz", "NVML nvmlDeviceGetMaxClockInfo"),
    Field("compute_capability", "text", "major.minor", "NVML nvmlDeviceGetCudaComputeCapability"),
    Field("utilization_percent", "integer", "%", "NVML nvmlDeviceGetUtilizationRates"),
    Field("display_active", "flag", "yes or no", "NVML nvmlDeviceGetDisplayActive"),
)
_GPU_PARTS = tuple(
    Field(name, kind, unit, method, _INVENTORY)
    for name, kind, unit, method in (
        ("serial_sha256", "text", "SHA-256, hex", "NVML nvmlDeviceGetSerial; the number itself is not kept"),
        ("minor_number", "integer", "number", "NVML nvmlDeviceGetMinorNumber"),
        ("brand", "text", "name", "NVML nvmlDeviceGetBrand"),
        ("architecture", "text", "name", "NVML nvmlDeviceGetArchitecture"),
        ("board_part_number", "text", "name", "NVML nvmlDeviceGetBoardPartNumber"),
        ("pci_device_id", "text", "device:vendor, hex", "NVML nvmlDeviceGetPciInfo"),
        ("pci_subsystem_id", "text", "device:vendor, hex", "NVML nvmlDeviceGetPciInfo"),
        ("vbios_version", "text", "version", "NVML nvmlDeviceGetVbiosVersion"),
        ("inforom_version", "text", "version", "NVML nvmlDeviceGetInforomImageVersion"),
        ("gsp_firmware", "text", "version", "NVML nvmlDeviceGetGspFirmwareVersion"),
        ("cores", "integer", "count", "NVML nvmlDeviceGetNumGpuCores"),
        ("memory_bus_bits", "integer", "bits", "NVML nvmlDeviceGetMemoryBusWidth"),
        ("bar1_total_mb", "integer", "MiB", "NVML nvmlDeviceGetBAR1MemoryInfo"),
        ("pci_gen_device_max", "integer", "generation", "NVML nvmlDeviceGetGpuMaxPcieLinkGeneration"),
        ("power_min_w", "number", "W", "NVML nvmlDeviceGetPowerManagementLimitConstraints"),
        ("power_max_w", "number", "W", "NVML nvmlDeviceGetPowerManagementLimitConstraints"),
        ("power_default_w", "number", "W", "NVML nvmlDeviceGetPowerManagementDefaultLimit"),
        ("power_enforced_w", "number", "W", "NVML nvmlDeviceGetEnforcedPowerLimit"),
        ("graphics_clock_max_mhz", "integer", "MHz", "NVML nvmlDeviceGetMaxClockInfo"),
        ("video_clock_max_mhz", "integer", "MHz", "NVML nvmlDeviceGetMaxClockInfo"),
        ("temperature_slowdown_c", "integer", "°C", "NVML nvmlDeviceGetTemperatureThreshold"),
        ("temperature_shutdown_c", "integer", "°C", "NVML nvmlDeviceGetTemperatureThreshold"),
        ("fans", "integer", "count", "NVML nvmlDeviceGetNumFans"),
        ("ecc_mode", "flag", "yes or no", "NVML nvmlDeviceGetEccMode"),
        ("ecc_mode_pending", "flag", "yes or no", "NVML nvmlDeviceGetEccMode, after the next reboot"),
        ("mig_mode", "flag", "yes or no", "NVML nvmlDeviceGetMigMode"),
        ("mig_mode_pending", "flag", "yes or no", "NVML nvmlDeviceGetMigMode, after the next reset"),
        ("persistence_mode", "flag", "yes or no", "NVML nvmlDeviceGetPersistenceMode"),
        ("compute_mode", "text", "name", "NVML nvmlDeviceGetComputeMode"),
        ("virtualization_mode", "text", "name", "NVML nvmlDeviceGetVirtualizationMode"),
        ("fabric_state", "text", "name", "NVML nvmlDeviceGetGpuFabricInfoV"),
        ("nvlinks", "integer", "count", "NVML nvmlDeviceGetNvLinkState, those that are up"),
        ("nvlinks_max", "integer", "count", "NVML nvmlDeviceGetNvLinkState, all"),
    )
)
_GPU_PLACE = (
    Field("nvlink_version", "integer", "version", "NVML nvmlDeviceGetNvLinkVersion", "no NVLink is up"),
    Field("numa_node", "integer", "number", "sysfs numa_node", "the kernel names no NUMA node for it"),
    Field("cpus_near", "text", "list of CPUs", "sysfs local_cpulist", "it is on no bus of this machine"),
    Field("iommu_group", "integer", "number", "sysfs iommu_group", "it is in no IOMMU group"),
    Field("iommu_group_alone", "flag", "yes or no", "sysfs iommu_groups/N/devices", "it is in no IOMMU group"),
)
_GPU_DERIVED = (
    Field("fp32_tflops", "number", "TFLOPS", "data sheet, else cores x clock", "no table has this model"),
    Field("memory_gbps", "number", "GB/s", "bus x clock, else data sheet", "no table has this model"),
    Field("nvlink_gbps", "number", "GB/s, one way", "links that are up x rate of their version", _INVENTORY),
    Field("dlperf", "number", "points", "estimate by memory bandwidth, not measured", "no table has this model"),
)
_GPU_MEASURED = (
    _measured("pcie_up_gbps", "GB/s", f"host to GPU: {_CUDA}", "pcie"),
    _measured("pcie_down_gbps", "GB/s", f"GPU to host: {_CUDA}", "pcie"),
    _measured("memory_copy_gbps", "GB/s", "within the GPU: copies by the CUDA driver, read and written", "pcie"),
    _measured("pcie_gen_under_load", "generation", "NVML, while the link is busy with the copies", "pcie"),
    _measured("pcie_width_under_load", "lanes", "NVML, while the link is busy with the copies", "pcie"),
)
GPUS = (*_GPU_NOW, *_GPU_PARTS, *_GPU_PLACE, *_GPU_DERIVED, *_GPU_MEASURED)
GPU_PAIRS = (
    Field("first", "integer", "index of a GPU", "NVML's order"),
    Field("second", "integer", "index of a GPU", "NVML's order"),
    Field("path", "text", "INT, PIX, PXB, PHB, NODE or SYS", "NVML nvmlDeviceGetTopologyCommonAncestor"),
    Field("read", "text", "ok, or why not", "NVML nvmlDeviceGetP2PStatus"),
    Field("write", "text", "ok, or why not", "NVML nvmlDeviceGetP2PStatus"),
    Field("nvlinks", "integer", "count", "NVML nvmlDeviceGetNvLinkRemotePciInfo: links from one to the other"),
)
IOMMU = (
    Field("enabled", "flag", "yes or no", "sysfs kernel/iommu_groups", _INVENTORY),
    Field("groups", "integer", "count", "sysfs kernel/iommu_groups", _INVENTORY),
    Field("kind", "text", "name", "sysfs class/iommu", "the kernel uses no IOMMU"),
    Field("kernel_arguments", "text", "words", "/proc/cmdline, those that concern it", _INVENTORY),
    Field("cpu_virtualization", "text", "svm, vmx or none", "/proc/cpuinfo flags", _INVENTORY),
    Field("kvm", "flag", "yes or no", "/dev/kvm", _INVENTORY),
    Field("hypervisor", "flag", "yes or no", "/proc/cpuinfo flags: the machine is itself a virtual one", _INVENTORY),
    Field("vfio_loaded", "flag", "yes or no", "sysfs module/vfio_pci", _INVENTORY),
    Field("drm_modeset", "flag", "yes or no", "sysfs module nvidia_drm", "the module nvidia_drm is not loaded"),
    Field("secure_boot", "flag", "yes or no", "sysfs efivars", "this machine did not start by UEFI"),
)
SOFTWARE = (
    Field("kernel_module", "text", "version", "sysfs module/nvidia/version", _INVENTORY),
    Field("kernel_module_open", "flag", "yes or no", "/proc/driver/nvidia/version", _INVENTORY),
    Field("container_toolkit", "text", "version", "nvidia-ctk --version", _INVENTORY),
    Field("fabric_manager", "text", "version", "nv-fabricmanager --version", _INVENTORY),
    Field("libc", "text", "version", "the C library that kaalia runs with", _INVENTORY),
    Field("python", "text", "version", "the interpreter that kaalia runs with", _INVENTORY),
    Field("cgroup_mode", "text", "unified, hybrid or legacy", "/sys/fs/cgroup", _INVENTORY),
    Field("init", "text", "name", "/proc/1/comm", _INVENTORY),
)
_HASHES = "SHA-256 and zlib on blocks of 1 MiB"
_FIO = "fio on Docker's data root, direct"
BENCHMARKS = (
    _measured("cpu_points", "points", f"{_HASHES}, all cores at once; see docs/report.md", "cpu"),
    _measured("cpu_single_points", "points", f"{_HASHES}, one core; see docs/report.md", "cpu"),
    _measured("cpu_sustained_ghz", "GHz", "/proc/cpuinfo, median of all cores while all work", "cpu"),
    _measured("disk_read_mbps", "MB/s", f"{_FIO}: sequential, 1 MiB, 8 in flight", "disk"),
    _measured("disk_write_mbps", "MB/s", f"{_FIO}: sequential, 1 MiB, 8 in flight", "disk"),
    _measured("disk_random_read_iops", "1/s", f"{_FIO}: random, 4 KiB, 32 in flight", "disk"),
    _measured("disk_random_write_iops", "1/s", f"{_FIO}: random, 4 KiB, 32 in flight", "disk"),
    _measured("disk_read_latency_us", "µs", f"{_FIO}: random, 4 KiB, one at a time, mean", "disk"),
    _measured("disk_read_latency_p99_us", "µs", f"{_FIO}: random, 4 KiB, one at a time, 99th percentile", "disk"),
)
OFFER = tuple(
    Field(name, kind, unit, method)
    for name, kind, unit, method in (
        ("num_gpus", "integer", "count", "gpus"),
        ("gpu_name", "text", "name", "gpus.name in users' words; models that differ are all named"),
        ("gpu_arch", "text", "name", "gpus"),
        ("gpu_ram", "integer", "MiB", "gpus.vram_mb, the least"),
        ("gpu_total_ram", "integer", "MiB", "gpu_ram x num_gpus"),
        ("gpu_lanes", "integer", "lanes", "gpus.pci_width_current, the least"),
        ("pci_gen", "integer", "generation", "gpus.pci_gen_max, the least"),
        ("pcie_bw", "number", "GB/s", "gpus.pcie_up_gbps and pcie_down_gbps, the least"),
        ("gpu_mem_bw", "number", "GB/s", "gpus.memory_gbps, the least"),
        ("bw_nvlink", "number", "GB/s, one way", "gpus.nvlink_gbps, the least"),
        ("total_flops", "number", "TFLOPS", "gpus.fp32_tflops, the least x num_gpus"),
        ("dlperf", "number", "points", "gpus.dlperf, the least x num_gpus; an estimate"),
        ("compute_cap", "integer", "capability x 100", "gpus.compute_capability, the least"),
        ("gpu_max_power", "number", "W", "gpus.power_limit_w, the least"),
        ("gpu_max_temp", "integer", "°C", "gpus.temperature_limit_c, the least"),
        ("gpu_display_active", "flag", "yes or no", "gpus.display_active, any"),
        (
            "cuda_max_good",
            "number",
            "version",
            "driver.cuda_version, at most the last that knows every GPU's capability",
        ),
        ("driver_version", "text", "version", "driver.version"),
        ("driver_vers", "integer", "3 digits a part", "driver.version"),
        ("cpu_name", "text", "name", "cpu.model"),
        ("cpu_arch", "text", "name", "cpu.architecture"),
        ("cpu_cores", "integer", "count", "cpu.logical_cores"),
        ("cpu_ghz", "number", "GHz", "cpu.max_ghz, else benchmarks.cpu_sustained_ghz, else cpu.base_ghz"),
        ("has_avx", "integer", "0 or 1", "cpu.has_avx"),
        ("cpu_ram", "integer", "MiB", "memory.total_bytes"),
        ("disk_name", "text", "name", "disk.model"),
        ("disk_bw", "number", "MB/s", "benchmarks.disk_read_mbps"),
        ("disk_space", "integer", "GB", "disk.total_bytes"),
        ("mobo_name", "text", "name", "system.board"),
        ("os_version", "text", "version", "system.os_name"),
        ("ubuntu_version", "text", "version", "system.os_name, where it is Ubuntu"),
        ("public_ipaddr", "text", "address", "network.public_ip"),
        ("direct_port_count", "integer", "count", "network.proven_tcp, else the range"),
        ("inet_down", "number", "Mb/s", "network.down_mbps"),
        ("inet_up", "number", "Mb/s", "network.up_mbps"),
    )
)

SECTIONS: Mapping[str, tuple[Field, ...]] = {
    "system": SYSTEM,
    "cpu": CPU,
    "memory": MEMORY,
    "disk": DISK,
    "network": NETWORK,
    "engine": ENGINE,
    "driver": DRIVER,
    "iommu": IOMMU,
    "software": SOFTWARE,
    "benchmarks": BENCHMARKS,
    "offer": OFFER,
}
"""Sections of which a report has one. `offer` is what the public API gets of the others."""
LISTS: Mapping[str, tuple[Field, ...]] = {"drives": DRIVES, "nics": NICS, "gpus": GPUS, "gpu_pairs": GPU_PAIRS}
"""Sections of which a report has any number."""
SAYS: Mapping[str, str] = {
    "system": "The machine and its operating system.",
    "cpu": "The processors.",
    "memory": "Main memory. Modules are listed where the firmware lists them and kaalia may read it (root).",
    "disk": "The file system that holds Docker's data root.",
    "drives": "Each local disk. Health needs smartctl (`apt install smartmontools`) and root.",
    "network": "How the machine is reached.",
    "nics": "Each network card.",
    "engine": "The container engine.",
    "driver": "The NVIDIA driver.",
    "gpus": "Each GPU: first what is read each minute, then what stays, what is derived, and what is measured.",
    "gpu_pairs": "How each two GPUs reach each other.",
    "iommu": "Whether GPUs could be given to virtual machines.",
    "software": "What stands between a GPU and a container.",
    "benchmarks": "What is measured when the owner orders it: `kaalia report --measure`.",
    "offer": "What offers say of the machine as a whole, in the public API's words; a slice has its share.",
}
