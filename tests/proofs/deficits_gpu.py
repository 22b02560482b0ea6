"""GPUs that compute, remember or copy wrongly, whose driver refuses or hangs, and that cannot bear the load."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread

from kaalia.model.selftest import StepName as Step
from tests.proofs.deficiency import Deficiency, Strike, World, at_once, of_step
from tests.support.fake_nvidia.profiles import fault, setting
from tests.support.struck import process_of

_WORKS = {"utilization_percent": 100, "sm_mhz": 2700, "pci_gen": 4, "clock_reasons": 0x04}
"""What a GPU under load tells, at its power limit."""
BUSY = "".join(setting(gpu, key, value) for gpu in (0, 1) for key, value in _WORKS.items())
LONG, LONGER = ("--burn", "0.2"), ("--burn", "0.5")
"""Minutes: some readings of the GPUs, and enough of them to see clocks fall."""
SOON_S, HALF_S = 3.0, 15.0
RETAIN, TO_GPU, FROM_GPU = "cuDevicePrimaryCtxRetain", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"
PRODUCT, HANDLE = "launch_product_bf16", "nvmlDeviceGetHandleByIndex_v2"


def _gpus(text: str) -> Strike:
    return lambda world: world.gpus(text)


def _wrong(name: str, step: Step, code: str, text: str, **more: object) -> Deficiency:
    return of_step(name, step, code, _gpus(text), before=at_once, **more)


def _under_load(
    name: str, code: str, text: str, options: tuple[str, ...] = LONG, after_s: float = SOON_S
) -> Deficiency:
    """It begins while the burn runs."""
    return of_step(name, Step.BURN, code, _during("burn", text, after_s), before=at_once, more=options)


def _during(program: str, text: str, after_s: float) -> Strike:
    def strike(world: World) -> AbstractContextManager[None]:
        return _changed(world, program, text, after_s)

    return strike


@contextmanager
def _changed(world: World, program: str, text: str, after_s: float) -> Iterator[None]:
    stop = Event()

    def change() -> None:
        while process_of(program) is None:
            if stop.wait(0.05):
                return
        if not stop.wait(after_s):
            world.put(text + BUSY)

    with world.gpus(BUSY):
        beside = Thread(target=change, daemon=True)
        beside.start()
        try:
            yield
        finally:
            stop.set()
            beside.join()


STORM = _under_load("errors that ECC corrects", "load_ecc_corrected", setting(0, "ecc_volatile_corrected", 500))
"""It is told, and fails nothing."""
ALL: tuple[Deficiency, ...] = (
    _wrong("a bit of GPU memory that is always 1", Step.MEMORY, "memory_wrong", setting(1, "cuda_stuck", "2000001 3")),
    _wrong("GPU memory that cannot be had", Step.MEMORY, "gpu_out_of_memory", fault("cuMemAlloc_v2", "error 2", 0)),
    _wrong("CUDA and driver of two versions", Step.MEMORY, "gpu_driver_mismatch", fault("cuInit", "error 803")),
    _wrong(
        "a GPU in exclusive use",
        Step.MEMORY,
        "gpu_in_use",
        fault(RETAIN, "error 46", 1),
    ),
    _wrong("integers computed wrongly", Step.COMPUTE, "compute_wrong", fault("launch_integers", "flip", 0)),
    _wrong("fractions computed wrongly", Step.COMPUTE, "compute_wrong", fault("launch_doubles", "flip", 1)),
    _wrong("a kernel that fails (Xid 31)", Step.COMPUTE, "gpu_launch_failed", fault("launch_integers", "xid 31", 0)),
    _wrong("an ECC error in the middle of a kernel", Step.COMPUTE, "gpu_ecc", fault("launch_doubles", "error 214", 0)),
    _wrong("no PTX compiler", Step.COMPUTE, "gpu_compiler_missing", fault("cuModuleLoadDataEx", "error 221")),
    _wrong("a kernel that never ends", Step.COMPUTE, "gpu_hung", fault("cuStreamQuery", "error 600", 0)),
    _wrong("tensor cores that multiply wrongly", Step.MATRIX, "matrix_wrong", fault(PRODUCT, "flip", 1)),
    _wrong("a library that aborts", Step.MATRIX, "work_died", fault("cuMemAlloc_v2", "abort")),
    _wrong("a call of the driver that hangs", Step.MATRIX, "work_late", fault("cuMemAlloc_v2", "hang")),
    _wrong("copies within a GPU that go wrong", Step.DEVICE_BANDWIDTH, "memory_wrong", fault("launch_copy", "flip", 0)),
    _wrong("bits lost on the way to a GPU", Step.HOST_BANDWIDTH, "pcie_wrong", fault(TO_GPU, "flip", 0)),
    _wrong("bits lost on the way from a GPU", Step.HOST_BANDWIDTH, "pcie_wrong", fault(FROM_GPU, "flip", 1)),
    _wrong("bits lost between two GPUs", Step.PEER_BANDWIDTH, "peer_wrong", fault("cuMemcpyPeerAsync", "flip", 0)),
    _wrong("a sum of all GPUs that is wrong", Step.COLLECTIVE, "collective_wrong", fault("launch_add", "flip", 1)),
    _wrong(
        "a product that is wrong once in a while",
        Step.BURN,
        "matrix_wrong",
        fault("launch_product_bf16", "flip 5", 0),
        more=LONG,
    ),
    _under_load("an ECC error under load", "load_ecc_uncorrected", setting(0, "ecc_volatile_uncorrected", 1)),
    _under_load(
        "a row that is not remapped, under load", "load_row_remap_failed", setting(1, "remapped_rows", "0 0 0 1")
    ),
    _under_load("a GPU that the driver loses under load", "load_gpu_lost", fault(HANDLE, "error 15", 1)),
    _under_load("a GPU that becomes hotter than it may", "load_too_hot", setting(0, "temperature_c", 97)),
    _under_load("GPU memory that becomes too hot", "load_memory_too_hot", setting(1, "memory_c", 110)),
    _under_load("heat that slows a GPU down", "load_thermal_throttled", setting(1, "thermal_ns", 60 * 10**9)),
    _under_load("a power supply that gives way (power brake)", "load_power_brake", setting(0, "clock_reasons", 0x80)),
    _under_load("a clock that falls under load", "load_clock_fell", setting(1, "sm_mhz", 900), LONGER, HALF_S),
    _under_load("a driver that hangs under load", "load_driver_hung", fault("nvmlDeviceGetName", "hang", 1)),
)
