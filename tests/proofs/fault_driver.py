"""Faults of the driver, by the file that the simulated one reads: counters and states of a GPU, GPUs that vanish, calls
that fail with an error, hang, and abort the process that made them; and by another library in its place, which lacks a
function. They strike the tenant's own GPU, if one."""

import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event, Thread

from kaalia.model.health import HOST
from tests.proofs.fault import Fault, World
from tests.support.fake_nvidia.build import LIBRARY, build
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, well, without, write

SOURCE = "driver"
GPUS = 8
MACHINE = well(machine(f"{GPUS}xRTX_4090"), GPUS)
BUSY = {"utilization_percent": 100, "sm_mhz": 3000, "pci_gen": 4, "clock_reasons": 0}
"""A GPU that works as it should."""
RAMP_S = 0.1
_ramps: dict[str, tuple[Event, Thread]] = {}

Values = dict[str, object]


def begin(world: World) -> None:
    """A machine with every counter, and all of them well. Libraries that lack something are made before they strike."""
    write(world.profile, MACHINE)
    for _, _, symbol, _ in SYMBOLS:
        _library(world, symbol)
    whole = _library(world)
    if not (kept := whole.with_suffix(".whole")).exists():
        shutil.copy(whole, kept)


def _faults() -> tuple[Fault, ...]:
    return (
        *(_of_gpu(code, name, values) for code, (name, values) in STATES.items()),
        *(_growing(code, *more) for code, more in GROWING.items()),
        _lost("the last of 8 GPUs is not shown any more", "gpu_gone"),
        _lost("the last of 8 GPUs is lost", "gpu_lost"),
        *(_error(code, name, call, number) for code, name, call, number in ERRORS),
        *(_call(code, name, text) for code, name, text in CALLS),
        *(Fault(SOURCE, name, code, partial(_lack, symbol), _whole, scope) for code, name, symbol, scope in SYMBOLS),
    )


STATES: dict[str, tuple[str, Values]] = {
    "gpu_reset_required": ("the driver asks for a reset", {"recovery_action": 1}),
    "gpu_reboot_required": ("the driver asks for a reboot", {"recovery_action": 2}),
    "gpu_ecc_uncorrected": ("3 errors that ECC could not correct", {"ecc_volatile_uncorrected": 3}),
    "gpu_ecc_history": ("5 such errors in its life", {"ecc_aggregate_uncorrected": 5}),
    "gpu_sram_worn": ("too many errors of the SRAM", {"sram_threshold_exceeded": 1}),
    "gpu_row_remap_failed": ("a row could not be remapped", {"remapped_rows": "0 0 0 1"}),
    "gpu_row_remap_pending": ("a row waits to be remapped", {"remapped_rows": "0 0 1 0"}),
    "gpu_rows_remapped": ("2 rows were remapped", {"remapped_rows": "0 2 0 0"}),
    "gpu_pages_retired": ("63 pages are retired", {"retired_double": 63}),
    "gpu_page_retirement_pending": ("a page waits to be retired", {"retired_pages_pending": 1}),
    "gpu_ecc_mode_pending": ("ECC is to be off after a reset", {"ecc": "1 0"}),
    "gpu_hot": ("89 °C of 90", {"temperature_c": 89}),
    "gpu_memory_hot": ("its memory has 94 °C of 95", {"memory_c": 94}),
    "gpu_hw_slowdown": ("its hardware slows it down", {"clock_reasons": 0x08}),
    "gpu_power_brake": ("the power brake is on", {"clock_reasons": 0x80}),
    "gpu_clock_low": ("a low clock under load", {**BUSY, "sm_mhz": 400}),
    "gpu_pcie_width": ("8 of 16 lanes under load", {**BUSY, "pci_width": 8}),
    "gpu_pcie_generation": ("PCIe 1.0 of 4.0 under load", {**BUSY, "pci_gen": 1}),
    "gpu_nvlink_down": ("an NVLink is down", {"nvlinks": "1 0 1 1"}),
    "gpu_fabric_waiting": ("it has not joined the fabric", {"fabric": "1 0 0"}),
    "gpu_fabric_failed": ("the fabric refused it", {"fabric": "3 27 0"}),
    "gpu_fabric_degraded": ("less bandwidth in the fabric", {"fabric": "3 0 1"}),
    "gpu_mig_on": ("it is cut into slices", {"mig": "1 0"}),
    "gpu_persistence_off": ("persistence mode is off", {"persistence_mode": 0}),
}
GROWING: dict[str, tuple[str, str, int]] = {
    "gpu_thermal_throttled": ("heat slows it down half of the time", "thermal_ns", int(0.5e9 * RAMP_S)),
    "gpu_pcie_replays": ("its PCIe link repeats packets", "pcie_replays", 5),
    "gpu_nvlink_crc": ("checksum errors of its NVLinks", "nvlink_crc", 200),
}
"""What, the counter, and by how much it grows each RAMP_S."""
ERRORS: tuple[tuple[str, str, str, int], ...] = (
    ("gpu_lost", "GPU_IS_LOST of its handle", "nvmlDeviceGetHandleByIndex_v2", 15),
    ("gpu_power_missing", "INSUFFICIENT_POWER of its handle", "nvmlDeviceGetHandleByIndex_v2", 8),
    ("gpu_interrupts_lost", "IRQ_ISSUE of its handle", "nvmlDeviceGetHandleByIndex_v2", 11),
    ("gpu_reset_required", "RESET_REQUIRED of its use", "nvmlDeviceGetUtilizationRates", 16),
    ("gpu_inforom_corrupted", "CORRUPTED_INFOROM of its ECC mode", "nvmlDeviceGetEccMode", 14),
    ("gpu_unreadable", "UNKNOWN of its power", "nvmlDeviceGetPowerUsage", 999),
    ("gpu_unreadable", "TIMEOUT of its temperature", "nvmlDeviceGetTemperatureV", 10),
    ("gpu_unreadable", "NO_PERMISSION of its replays", "nvmlDeviceGetPcieReplayCounter", 4),
)
CALLS = (
    ("gpu_driver_not_loaded", "DRIVER_NOT_LOADED at its begin", fault("nvmlInitWithFlags", "error 9")),
    ("gpu_driver_mismatch", "LIB_RM_VERSION_MISMATCH at its begin", fault("nvmlInitWithFlags", "error 18")),
    ("gpu_driver_failed", "UNKNOWN at its begin", fault("nvmlInitWithFlags", "error 999")),
    ("gpu_driver_hung", "it hangs at its begin", fault("nvmlInitWithFlags", "hang")),
    ("gpu_driver_hung", "it hangs when asked for a name", fault("nvmlDeviceGetName", "hang", 3)),
    ("gpu_probe_failed", "it aborts at its begin", fault("nvmlInitWithFlags", "abort")),
    ("gpu_probe_failed", "it ends the process when asked for a name", fault("nvmlDeviceGetName", "exit 3", 3)),
    ("gpu_counters_unread", "it aborts over a counter", fault("nvmlDeviceGetMigMode", "abort")),
    ("gpu_driver_hung", "it hangs over a counter", fault("nvmlDeviceGetRemappedRows", "hang", 5)),
)
SYMBOLS = (
    ("gpu_driver_failed", "its library cannot begin: no nvmlInitWithFlags", "nvmlInitWithFlags", HOST),
    ("gpu_driver_failed", "its library lacks nvmlDeviceGetCount_v2", "nvmlDeviceGetCount_v2", HOST),
    ("gpu_unreadable", "its library lacks nvmlDeviceGetUUID", "nvmlDeviceGetUUID", None),
    ("gpu_version_untold", "its library lacks nvmlSystemGetDriverVersion", "nvmlSystemGetDriverVersion", None),
)
"""What is missed of a library that is older or newer than it should be."""


def _of_gpu(code: str, name: str, values: Values) -> Fault:
    # The first line of a key counts.
    text = "".join(setting(0, key, value) for key, value in values.items()) + MACHINE
    mend = _well_under_load if values.keys() & BUSY.keys() else begin
    return Fault(SOURCE, name, code, partial(_put, text), mend, gpu_uuid(0))


def _error(code: str, name: str, function: str, number: int) -> Fault:
    text = MACHINE + fault(function, f"error {number}", 0)
    return Fault(SOURCE, name, code, partial(_put, text), begin, gpu_uuid(0))


def _call(code: str, name: str, line: str) -> Fault:
    return Fault(SOURCE, name, code, partial(_put, MACHINE + line), begin, HOST)


def _lost(name: str, code: str) -> Fault:
    return Fault(SOURCE, name, code, partial(_put, f"system count {GPUS - 1}\n{MACHINE}"), begin, gpu_uuid(GPUS - 1))


def _growing(code: str, name: str, key: str, step: int) -> Fault:
    rest = without(MACHINE, key)

    def text(value: int) -> str:
        return setting(0, key, value) + rest

    return Fault(SOURCE, name, code, partial(_grow, key, step, text), partial(_rest, key), gpu_uuid(0))


def _well_under_load(world: World) -> None:
    """What is judged under load only is over under load only; the next fault begins where it stands."""
    write(world.profile, "".join(setting(0, key, value) for key, value in BUSY.items()) + MACHINE)


def _put(text: str, world: World) -> None:
    write(world.profile, text)


def _library(world: World, *missing: str) -> Path:
    return build(world.profile.parent / "driver", missing) / LIBRARY


def _lack(symbol: str, world: World) -> None:
    _replace(_library(world, symbol), _library(world))


def _whole(world: World) -> None:
    whole = _library(world)
    _replace(whole.with_suffix(".whole"), whole)


def _replace(source: Path, target: Path) -> None:
    """In one stroke: a probe that begins has the one or the other."""
    part = target.with_suffix(".part")
    shutil.copy(source, part)
    part.replace(target)


def _grow(key: str, step: int, text: Callable[[int], str], world: World) -> None:
    """Counters do not fall: what comes after goes on from where they are."""
    stop = Event()

    def work() -> None:
        for number in count(1):
            write(world.profile, text(number * step))
            if stop.wait(RAMP_S):
                return

    thread = Thread(target=work, daemon=True)
    _ramps[key] = (stop, thread)
    thread.start()


def _rest(key: str, world: World) -> None:
    stop, thread = _ramps.pop(key)
    stop.set()
    thread.join()
    assert world.profile.exists()


FAULTS = _faults()
