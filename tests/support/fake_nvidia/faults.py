"""Ways to break the simulated driver or one of its GPUs, each with the condition that tells of it.

    write(path, breakage.text(3) + machine("8xRTX_4090"))     and GPU 3 is broken

What needs more than a profile (a counter that grows, a link that was up before) is none of these.
"""

from dataclasses import dataclass

from tests.support.fake_nvidia.profiles import fault, setting


@dataclass(frozen=True, slots=True)
class Breakage:
    """`faults`: (function, verb); `settings`: (key, value) of the GPU. `of_gpu` False: the driver itself."""

    name: str
    code: str
    faults: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, object], ...] = ()
    of_gpu: bool = True

    def text(self, gpu: int = 0) -> str:
        """The lines that break it, to be put before the machine."""
        at = gpu if self.of_gpu else None
        lines = [fault(function, verb, at) for function, verb in self.faults]
        return "".join([*lines, *(setting(gpu, key, value) for key, value in self.settings)])


def _call(name: str, code: str, function: str, verb: str) -> Breakage:
    return Breakage(name, code, ((function, verb),))


def _key(name: str, code: str, **settings: object) -> Breakage:
    return Breakage(name, code, settings=tuple(settings.items()))


def _driver(name: str, code: str, function: str, verb: str) -> Breakage:
    return Breakage(name, code, ((function, verb),), of_gpu=False)


OF_DRIVER = (
    _driver("the driver does not tell its version", "gpu_version_untold", "nvmlSystemGetDriverVersion", "error 999"),
    _driver("the kernel's driver is not loaded", "gpu_driver_not_loaded", "nvmlInitWithFlags", "error 9"),
    _driver("library and kernel driver differ", "gpu_driver_mismatch", "nvmlInitWithFlags", "error 18"),
    _driver("NVML cannot be initialised", "gpu_driver_failed", "nvmlInitWithFlags", "error 999"),
    _driver("NVML refuses for want of memory", "gpu_driver_failed", "nvmlInitWithFlags", "error 20"),
    _driver("the GPUs cannot be counted", "gpu_driver_failed", "nvmlDeviceGetCount_v2", "error 17"),
    _driver("the initialisation hangs", "gpu_driver_hung", "nvmlInitWithFlags", "hang"),
    _driver("a reading hangs", "gpu_driver_hung", "nvmlDeviceGetMemoryInfo", "hang"),
    _driver("a counter hangs", "gpu_driver_hung", "nvmlDeviceGetMigMode", "hang"),
    _driver("the library aborts at its start", "gpu_probe_failed", "nvmlInitWithFlags", "abort"),
    _driver("the library aborts over a reading", "gpu_probe_failed", "nvmlDeviceGetPowerUsage", "abort"),
    _driver("the library ends its process", "gpu_probe_failed", "nvmlDeviceGetUUID", "exit 0"),
    _driver("the library aborts over a counter", "gpu_counters_unread", "nvmlDeviceGetMigMode", "abort"),
    _driver("the library ends its process over a counter", "gpu_counters_unread", "nvmlDeviceGetEccMode", "exit 3"),
)

OF_GPU = (
    _key("it fell off the bus", "gpu_lost", lost_after=0),
    _key("it falls off while it is read", "gpu_lost", lost_after=7),
    _call("its handle is refused: lost", "gpu_lost", "nvmlDeviceGetHandleByIndex_v2", "error 15"),
    _call("a call says that it is lost", "gpu_lost", "nvmlDeviceGetTemperatureV", "error 15"),
    _call("a call says that there is no such GPU", "gpu_lost", "nvmlDeviceGetPowerUsage", "error 28"),
    _call("a call says that it needs a reset", "gpu_reset_required", "nvmlDeviceGetUtilizationRates", "error 16"),
    _key("the driver asks for a reset", "gpu_reset_required", recovery_action=1),
    _key("the driver asks to drain and reset", "gpu_reset_required", recovery_action=4),
    _key("the driver asks for a reboot", "gpu_reboot_required", recovery_action=2),
    _call("its power cables are off", "gpu_power_missing", "nvmlDeviceGetHandleByIndex_v2", "error 8"),
    _call("its interrupts are lost", "gpu_interrupts_lost", "nvmlDeviceGetHandleByIndex_v2", "error 11"),
    _call("its InfoROM is damaged", "gpu_inforom_corrupted", "nvmlDeviceGetEccMode", "error 14"),
    _call("its handle is refused: unknown error", "gpu_unreadable", "nvmlDeviceGetHandleByIndex_v2", "error 999"),
    _call("its UUID cannot be read", "gpu_unreadable", "nvmlDeviceGetUUID", "error 999"),
    _call("its memory cannot be read", "gpu_unreadable", "nvmlDeviceGetMemoryInfo", "error 10"),
    _call("its clocks cannot be read", "gpu_unreadable", "nvmlDeviceGetClockInfo", "error 27"),
    _call("its ECC counters cannot be read", "gpu_unreadable", "nvmlDeviceGetTotalEccErrors", "error 23"),
    _call("its NVLinks cannot be read", "gpu_unreadable", "nvmlDeviceGetNvLinkState", "error 29"),
    _call("a call is not permitted", "gpu_unreadable", "nvmlDeviceGetRemappedRows", "error 4"),
    _call("a call has an error of tomorrow", "gpu_unreadable", "nvmlDeviceGetMigMode", "error 4711"),
    _key("an ECC error", "gpu_ecc_uncorrected", ecc_volatile_uncorrected=1),
    _key("an ECC error of long ago", "gpu_ecc_history", ecc_aggregate_uncorrected=1),
    _key("its SRAM is worn", "gpu_sram_worn", sram_threshold_exceeded=1),
    _key("a row could not be remapped", "gpu_row_remap_failed", remapped_rows="0 0 0 1"),
    _key("a row waits to be remapped", "gpu_row_remap_pending", remapped_rows="0 0 1 0"),
    _key("rows were remapped", "gpu_rows_remapped", remapped_rows="0 2 0 0"),
    _key("too many pages are retired", "gpu_pages_retired", retired_single=60, retired_double=3),
    _key("a page waits to be retired", "gpu_page_retirement_pending", retired_pages_pending=1),
    _key("its ECC mode is to change", "gpu_ecc_mode_pending", ecc="1 0"),
    _key("it is hot", "gpu_hot", temperature_c=89),
    _key("its memory is hot", "gpu_memory_hot", memory_c=94, memory_max_c=95),
    _key("its link has half its lanes under load", "gpu_pcie_width", utilization_percent=99, pci_width=8, pci_gen=4),
    _key("its link is slow under load", "gpu_pcie_generation", utilization_percent=99, pci_gen=1),
    _key("it waits for the fabric manager", "gpu_fabric_waiting", fabric="1 0 0"),
    _key("the fabric refused it", "gpu_fabric_failed", fabric="3 999 0"),
    _key("its routes in the fabric are unhealthy", "gpu_fabric_degraded", fabric="3 0 0x10"),
    _key("it is cut into slices", "gpu_mig_on", mig="1 1"),
    _key("persistence mode is off", "gpu_persistence_off", persistence_mode=0),
    _key("an external power brake", "gpu_power_brake", clock_reasons=0x80),
)
