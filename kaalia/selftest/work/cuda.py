"""The CUDA driver by ctypes (libcuda.so.1): every call checked, every wait with an end. Standard library only.

    for gpu in cuda.gpus(arguments):               primary contexts, so that two libraries of one process share them
        with gpu:                                  calls go to this GPU
            module = gpu.module("memory")          kernels/memory.ptx
            block = gpu.allocate(bytes)            freed with the process
            module.launch("fill", blocks, threads, block, ctypes.c_uint64(count))
            gpu.wait("filling memory")             raises FailedError after DEADLINE_S

A call that fails raises CudaError, a `talk.FailedError`: its code is stable, its words name call, GPU and error.
"""

import ctypes
import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from kaalia.selftest.work.talk import FailedError

LIBRARY = "libcuda.so.1"
KERNELS = Path(__file__).with_name("kernels")
DEADLINE_S = 30.0
"""No kernel here takes a second on any GPU of the last ten years; what takes this long hangs."""
POLL_S = (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002)

NOT_READY = 600
OUT_OF_MEMORY = 2
PEER_ALREADY_ENABLED, PEER_UNSUPPORTED, TOO_MANY_PEERS = 704, 217, 711
NO_DEVICE = 100
BLOCKING_SYNC = 4
STREAM_NON_BLOCKING, PINNED_PORTABLE = 1, 1
MULTIPROCESSORS, COMPUTE_MODE, MAJOR, MINOR = 16, 20, 75, 76
PROHIBITED = 2
MAX_DYNAMIC_SHARED = 8
LOG_BYTES = 8192

_LOST = "see dmesg for Xid lines (journalctl -k --grep Xid); drain the machine, then reboot it"
_GONE = (
    "see nvidia-smi -L; one in slices (MIG) is not shown itself: nvidia-smi -i UUID -mig 0; "
    "one that is gone from there: reboot"
)
PEERS = "turn IOMMU or ACS off for them, or keep peer access off; reseat NVLink bridges and risers"
"""For copies between GPUs that go wrong or hang. NVIDIA, CUDA C++ Programming Guide, IOMMU on Linux: on bare metal it
is to be off, or what is copied from GPU to GPU is silently corrupted."""
_WORDS: dict[int, tuple[str, str, str]] = {
    1: ("gpu_call_refused", "a value is out of range", "report this: a work program asked for what cannot be"),
    2: ("gpu_out_of_memory", "out of memory", "see what holds the GPU's memory: nvidia-smi"),
    3: ("gpu_driver_failed", "the driver is not initialised", "see nvidia-smi and dmesg"),
    34: ("cuda_missing", "the library is the CUDA toolkit's stub", "see which libcuda.so.1 comes first: ldconfig -p"),
    46: ("gpu_in_use", "the GPU is in exclusive use or unavailable", "see nvidia-smi: compute mode and processes"),
    NO_DEVICE: ("gpu_not_visible", "no such GPU", _GONE),
    101: ("gpu_not_visible", "no such GPU", _GONE),
    209: ("gpu_too_old", "the kernels are for newer GPUs", "this GPU cannot be rented: it is older than Maxwell"),
    214: ("gpu_ecc", "an uncorrectable ECC error", "see nvidia-smi -q -d ECC; reset or replace the GPU"),
    218: ("gpu_kernel_refused", "the kernel's PTX cannot be compiled", "install a driver of CUDA 11.8 or newer"),
    220: ("gpu_nvlink", "an uncorrectable NVLink error", "see nvidia-smi nvlink -e; reseat the bridge"),
    221: ("gpu_compiler_missing", "the PTX compiler is missing", "install libnvidia-ptxjitcompiler of the driver"),
    222: ("gpu_kernel_refused", "the driver is too old for the kernel's PTX", "install a driver of CUDA 11.8 or newer"),
    223: ("gpu_compiler_missing", "compiling PTX is switched off", "unset CUDA_DISABLE_PTX_JIT"),
    226: ("gpu_launch_failed", "an error that the GPU kept from others, of NVLink or of its hardware", _LOST),
    304: ("gpu_driver_failed", "the operating system refused", "see whether root can open them: ls -l /dev/nvidia*"),
    500: ("gpu_symbol_missing", "not found", "reinstall the NVIDIA driver"),
    700: ("gpu_launch_failed", "a kernel used an illegal address", _LOST),
    702: ("gpu_hung", "a kernel took longer than the driver allows", _LOST),
    710: ("gpu_launch_failed", "a kernel's assertion failed", _LOST),
    714: ("gpu_launch_failed", "a hardware stack error", _LOST),
    715: ("gpu_launch_failed", "an illegal instruction", _LOST),
    716: ("gpu_launch_failed", "a misaligned address", _LOST),
    717: ("gpu_launch_failed", "an address of another kind of memory", _LOST),
    718: ("gpu_launch_failed", "a kernel lost its way", _LOST),
    719: ("gpu_launch_failed", "a kernel failed", _LOST),
    802: (
        "gpu_fabric",
        "the system is not ready yet",
        "start the fabric manager: systemctl start nvidia-fabricmanager",
    ),
    803: ("gpu_driver_mismatch", "the driver in the kernel and its library are of two versions", "reboot the machine"),
    804: ("gpu_driver_mismatch", "this GPU has no forward compatibility", "remove the cuda-compat package"),
    999: (
        "gpu_driver_failed",
        "the driver does not say why",
        f"load nvidia_uvm: nvidia-modprobe -u -c=0; else {_LOST}",
    ),
}
"""Code, words and remedy by the number in cuda.h (CUresult)."""


class CudaError(FailedError):
    """A call that the driver refused. `number`: CUresult."""

    def __init__(self, number: int, call: str, where: str, log: str = "") -> None:
        code, words, remedy = _WORDS.get(number, ("gpu_driver_failed", "see cuda.h", _LOST))
        told = f"; the driver says: {log}" if log else ""
        super().__init__(code, f"cannot call {call}{where}: CUDA error {number}, {words}{told}", remedy=remedy)
        self.number = number


class Driver:
    """The library. Functions are looked up when they are called, so that an old driver fails where it lacks one."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise FailedError(
                "cuda_missing",
                f"cannot load {LIBRARY}: {error}",
                remedy="install the NVIDIA driver's libnvidia-compute",
            ) from None

    def has(self, name: str) -> bool:
        return hasattr(self._library, name)

    def number(self, name: str, *arguments: Any) -> int:
        """Call `name` and return its CUresult. Raises FailedError `gpu_symbol_missing`."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise FailedError(
                "gpu_symbol_missing",
                f"cannot call {name}: {LIBRARY} does not have it",
                remedy="install a driver of CUDA 11.8 or newer; see that no other libcuda.so.1 is found: ldconfig -p",
            ) from None
        return int(function(*arguments))

    def call(self, name: str, *arguments: Any, where: str = "") -> None:
        """Raises CudaError, and FailedError `gpu_symbol_missing`."""
        number = self.number(name, *arguments)
        if number:
            raise CudaError(number, name, where)


class Event:
    """A moment in a stream."""

    def __init__(self, gpu: "Gpu") -> None:
        self._gpu = gpu
        self.handle = ctypes.c_void_p()
        gpu.call("cuEventCreate", ctypes.byref(self.handle), 0)

    def record(self, stream: "Stream | None" = None) -> None:
        self._gpu.call("cuEventRecord", self.handle, stream.handle if stream else None)

    def wait(self, what: str) -> None:
        """As Gpu.wait, until the moment has come."""
        self._gpu.poll("cuEventQuery", self.handle, what)

    def since_s(self, begin: "Event") -> float:
        """Seconds from `begin` to this; both have come. Resolution: half a microsecond."""
        passed = ctypes.c_float()
        self._gpu.call("cuEventElapsedTime", ctypes.byref(passed), begin.handle, self.handle)
        return passed.value / 1000


class Stream:
    """A queue of work of one GPU that does not wait for the others, but where it is told to."""

    def __init__(self, gpu: "Gpu") -> None:
        self._gpu = gpu
        self.handle = ctypes.c_void_p()
        gpu.call("cuStreamCreate", ctypes.byref(self.handle), STREAM_NON_BLOCKING)

    def follow(self, event: Event) -> None:
        """What comes next waits for what was before `event` when that was last recorded, on whatever GPU."""
        self._gpu.call("cuStreamWaitEvent", self.handle, event.handle, ctypes.c_uint(0))

    def wait(self, what: str) -> None:
        """As Gpu.wait, of this queue."""
        self._gpu.poll("cuStreamQuery", self.handle, what)


class Module:
    """Kernels of one file, compiled by the driver for this GPU."""

    def __init__(self, gpu: "Gpu", name: str) -> None:
        self._gpu, self._functions = gpu, dict[str, ctypes.c_void_p]()
        text = (KERNELS / f"{name}.ptx").read_bytes() + b"\0"
        log = ctypes.create_string_buffer(LOG_BYTES)
        # cuda.h: CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES; a number goes in the pointer's place.
        options = (ctypes.c_int * 2)(5, 6)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)
        self._handle = ctypes.c_void_p()
        number = gpu.driver.number(
            "cuModuleLoadDataEx", ctypes.byref(self._handle), text, ctypes.c_uint(2), options, values
        )
        if number:
            raise CudaError(number, "cuModuleLoadDataEx", gpu.where, log.value.decode(errors="replace").strip())

    def function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            found = ctypes.c_void_p()
            self._gpu.call("cuModuleGetFunction", ctypes.byref(found), self._handle, name.encode())
            self._functions[name] = found
        return self._functions[name]

    def allow_shared(self, name: str, size: int) -> None:
        """Let a kernel have more than 48 KiB of shared memory in a block."""
        self._gpu.call("cuFuncSetAttribute", self.function(name), MAX_DYNAMIC_SHARED, ctypes.c_int(size))

    def launch(
        self, name: str, blocks: int, threads: int, *arguments: Any, shared: int = 0, stream: Stream | None = None
    ) -> None:
        """`arguments`: ctypes values, in the kernel's order and of its types; they are copied by the call."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        sizes = (ctypes.c_uint(one) for one in (blocks, 1, 1, threads, 1, 1, shared))
        handle = stream.handle if stream else None
        self._gpu.call("cuLaunchKernel", self.function(name), *sizes, handle, pointers, None)


class Gpu:
    """One GPU and its primary context. `with gpu:` makes it the one that calls go to."""

    def __init__(self, driver: Driver, ordinal: int, deadline_s: float = DEADLINE_S) -> None:
        self.driver, self.ordinal, self.where = driver, ordinal, f" on GPU {ordinal}"
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._modules: dict[str, Module] = {}
        self.deadline_s = deadline_s
        self._has_peers = False
        self.call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(ordinal))
        self.uuid = self._read_uuid()
        self.where = f" on GPU {self.uuid}"
        if self.attribute(COMPUTE_MODE) == PROHIBITED:  # it would be called an unknown error
            raise FailedError(
                "gpu_in_use",
                f"cannot use GPU {self.uuid}: its compute mode lets no program run on it",
                remedy=f"nvidia-smi -i {self.uuid} -c 0",
            )
        # A wait of the driver's own must not burn a core; without this function it does, and no harm else.
        if driver.has("cuDevicePrimaryCtxSetFlags_v2"):
            self.call("cuDevicePrimaryCtxSetFlags_v2", self._device, ctypes.c_uint(BLOCKING_SYNC))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.capability = 10 * self.attribute(MAJOR) + self.attribute(MINOR)
        self.multiprocessors = self.attribute(MULTIPROCESSORS)

    def __enter__(self) -> "Gpu":
        self.call("cuCtxSetCurrent", self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The context stays current until another GPU's is."""

    def call(self, name: str, *arguments: Any) -> None:
        self.driver.call(name, *arguments, where=self.where)

    def attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), self._device)
        return value.value

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> ctypes.c_uint64:
        """A block of device memory; its content is undefined. Aligned to 256 bytes."""
        block = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(size))
        return block

    def free(self, block: ctypes.c_uint64) -> None:
        self.call("cuMemFree_v2", block)

    def pinned(self, size: int) -> int:
        """The address of a block of the host's memory that the GPU copies from and to at full speed.

        Raises FailedError `host_out_of_memory`.
        """
        block, flags = ctypes.c_void_p(), ctypes.c_uint(PINNED_PORTABLE)
        number = self.driver.number("cuMemHostAlloc", ctypes.byref(block), ctypes.c_size_t(size), flags)
        if number == OUT_OF_MEMORY:
            raise FailedError(
                "host_out_of_memory",
                f"cannot pin {size >> 20} MiB of main memory for GPU {self.uuid}: the driver does not get them",
                remedy="see what has the memory: free -m",
            )
        if number:
            raise CudaError(number, "cuMemHostAlloc", self.where)
        return int(block.value or 0)

    def unpin(self, address: int) -> None:
        self.call("cuMemFreeHost", ctypes.c_void_p(address))

    def bring_down(self, to: int, block: ctypes.c_uint64, size: int) -> None:
        """To a pinned block of the host, in the background."""
        self.call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(to), block, ctypes.c_size_t(size), None)

    def bring_up(self, block: ctypes.c_uint64, address: int, size: int) -> None:
        self.call("cuMemcpyHtoDAsync_v2", block, ctypes.c_void_p(address), ctypes.c_size_t(size), None)

    def clear(self, block: ctypes.c_uint64, size: int, value: int = 0) -> None:
        """Every byte, in the background."""
        self.call("cuMemsetD8_v2", block, ctypes.c_ubyte(value), ctypes.c_size_t(size))

    def put(self, block: ctypes.c_uint64, data: bytes) -> None:
        self.call("cuMemcpyHtoD_v2", block, data, ctypes.c_size_t(len(data)))

    def get(self, block: ctypes.c_uint64, size: int) -> bytes:
        """What is there, after all work before it."""
        out = ctypes.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", out, block, ctypes.c_size_t(size))
        return out.raw

    def module(self, name: str) -> Module:
        if name not in self._modules:
            self._modules[name] = Module(self, name)
        return self._modules[name]

    def wait(self, what: str) -> None:
        """Until the GPU's own stream is through. Raises FailedError `gpu_hung`, CudaError of what failed meanwhile."""
        self.poll("cuStreamQuery", None, what)

    def poll(self, query: str, of: ctypes.c_void_p | None, what: str) -> None:
        """Asks instead of waiting in the driver, so that what hangs is told and not waited for."""
        begin, turn = time.monotonic(), 0
        while (number := self.driver.number(query, of)) == NOT_READY:
            if time.monotonic() - begin > self.deadline_s:
                raise FailedError(
                    "gpu_hung",
                    f"cannot end {what}{self.where}: it takes longer than {self.deadline_s:g} s",
                    remedy=f"{PEERS}; else {_LOST}" if self._has_peers else _LOST,
                )
            time.sleep(POLL_S[min(turn, len(POLL_S) - 1)])
            turn += 1
        if number:
            raise CudaError(number, what, self.where)

    def can_reach(self, other: "Gpu") -> bool:
        """Whether it reads and writes the other's memory without the host; made so if it can be."""
        can = ctypes.c_int()
        self.call("cuDeviceCanAccessPeer", ctypes.byref(can), self._device, other._device)
        if not can.value:
            return False
        self.call("cuCtxSetCurrent", self._context)
        number = self.driver.number("cuCtxEnablePeerAccess", other._context, ctypes.c_uint(0))
        if number in (PEER_UNSUPPORTED, TOO_MANY_PEERS):
            return False  # more than eight without NVSwitch: the driver copies by way of the host
        if number not in (0, PEER_ALREADY_ENABLED):
            raise CudaError(number, "cuCtxEnablePeerAccess", self.where)
        self._has_peers = True
        return True

    def copy_to(
        self, there: "Gpu", to: ctypes.c_uint64, here: ctypes.c_uint64, size: int, stream: Stream | None = None
    ) -> None:
        """From this GPU's memory to another's, in this GPU's stream; by the host where they do not see each other."""
        self.call(
            "cuMemcpyPeerAsync",
            *(to, there._context, here, self._context, ctypes.c_size_t(size), stream.handle if stream else None),
        )

    def _read_uuid(self) -> str:
        raw = (ctypes.c_ubyte * 16)()
        name = "cuDeviceGetUuid_v2" if self.driver.has("cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
        self.call(name, raw, self._device)
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


def gpus(arguments: dict[str, Any]) -> list[Gpu]:
    """Those that the arguments name, or all. Raises FailedError, also `gpu_not_visible` when one is not shown."""
    wanted = [str(one) for one in arguments.get("gpus") or ()]
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_CACHE_DISABLE"] = "1"  # compiled kernels would stay behind in the home folder
    if wanted:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(wanted)
    driver, count = Driver(), ctypes.c_int()
    number = driver.number("cuInit", ctypes.c_uint(0))
    if number not in (0, NO_DEVICE):
        raise CudaError(number, "cuInit", "")
    if not number:
        driver.call("cuDeviceGetCount", ctypes.byref(count))
    deadline_s = float(arguments.get("deadline_s", DEADLINE_S))
    found = [Gpu(driver, ordinal, deadline_s) for ordinal in range(count.value)]
    missing = sorted(set(wanted) - {gpu.uuid for gpu in found})
    if missing or not found:
        raise FailedError(
            "gpu_not_visible",
            f"cannot use {', '.join(missing) or 'any GPU'}: CUDA does not show it",
            remedy=_GONE,
        )
    return found
