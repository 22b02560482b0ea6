"""A process that stays, and forks another for each look at the NVIDIA driver: see `nvml_look`.

It never loads the driver's library itself: so no device file stays open between two looks, a driver that was upgraded
is met anew, and a call that hangs or aborts is the end of the fork alone. A fork costs a tenth of an interpreter that
starts. It imports little, since it stays in memory, and nothing of kaalia.

A request is `look SECONDS`; the answer is one line of tab-separated fields: milliseconds of CPU, state, and
ok: marks, figures;   failed, no_driver: why;   died: by what;   hung: the id of the fork where SIGKILL did not end it.
While that one has not ended, no other is started.

Marks are all that is not "NVML answers, 0": `3.MigMode=999` (GPU 3, NVML's error), `3.RemappedRows:0.0.1.0`. Figures:
`3:41.62000.97.1900`, of GPU 3 °C, mW, percent of use and MHz, a `?` for each that is not told.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` brings enum along, and half a megabyte
import gc
import os
import sys
from ctypes import CDLL, addressof, c_char, c_uint, c_ulonglong, c_void_p

LIBRARY = "libnvidia-ml.so.1"
KILL_GRACE_S = 1.0
ANSWER_BYTES_MAX = 60_000
"""Less than a pipe holds: the fork never waits for its reader."""
FUNCTION_NOT_FOUND = 13
_SUCCESS, _NOT_SUPPORTED, _INVALID_ARGUMENT, _INSUFFICIENT_SIZE = 0, 3, 2, 7
_SLOT_BYTES, _SLOTS = 256, 4


class Out:
    """Room for an answer. `told`: where in it the numbers are whose change matters; `head`: what it begins with."""

    def __init__(self, *told: int, head: int = 0) -> None:
        self.told = told
        self.head = head


class Field(Out):
    """Room for one of NVML's numbered fields, which has an error of its own."""

    def __init__(self, number: int, *told: int) -> None:
        super().__init__(*told, head=number)


class Call:
    """A function's name without its `nvml`, and what it is given, Outs among it."""

    def __init__(self, name: str, *given: object) -> None:
        self.name = name
        self.given = given


def struct(size: int, version: int, *told: int) -> Out:
    return Out(*told, head=size | version << 24)


OUT, TOLD = Out(), Out(0)
TEMPERATURE_C = struct(12, 1)
_LINKS_MAX = 36
_FIELD_ERROR, _FIELD_VALUE = 28, 32
"""Where in nvmlFieldValue_t."""

SYSTEM = (
    Call("SystemGetDriverVersion", OUT, 96),
    Call("SystemGetCudaDriverVersion_v2", OUT),
)
GPU = (
    Call("UUID", OUT, 96),
    Call("Name", OUT, 96),
    Call("MemoryInfo", OUT),
    Call("PciInfo_v3", OUT),
    Call("MaxPcieLinkGeneration", OUT),
    Call("CurrPcieLinkGeneration", OUT),
    Call("MaxPcieLinkWidth", OUT),
    Call("CurrPcieLinkWidth", OUT),
    Call("PowerManagementLimit", OUT),
    Call("EnforcedPowerLimit", OUT),
    Call("PowerUsage", OUT),
    Call("TemperatureV", TEMPERATURE_C),
    Call("TemperatureThreshold", 3, OUT),
    Call("TemperatureThreshold", 1, OUT),
    Call("TemperatureThreshold", 2, OUT),
    Call("ClockInfo", 1, OUT),
    Call("MaxClockInfo", 1, OUT),
    Call("MaxClockInfo", 2, OUT),
    Call("CudaComputeCapability", OUT, OUT),
    Call("UtilizationRates", OUT),
    Call("DisplayActive", OUT),
    Call("ComputeRunningProcesses_v3", OUT, None),
    Call("GraphicsRunningProcesses_v3", OUT, None),
    Call("EccMode", TOLD, TOLD),
    Call("TotalEccErrors", 0, 0, OUT),
    Call("TotalEccErrors", 1, 0, TOLD),
    Call("TotalEccErrors", 1, 1, TOLD),
    Call("SramEccErrorStatus", struct(104, 1, 96)),
    Call("RemappedRows", TOLD, TOLD, TOLD, TOLD),
    Call("RetiredPages", 0, TOLD, None),
    Call("RetiredPages", 1, TOLD, None),
    Call("RetiredPagesPendingStatus", TOLD),
    Call("CurrentClocksEventReasons", OUT),
    Call("ViolationStatus", 0, OUT),
    Call("ViolationStatus", 1, OUT),
    Call("PowerManagementDefaultLimit", OUT),
    Call("TotalEnergyConsumption", OUT),
    Call("PcieReplayCounter", OUT),
    Call("FieldValues", 1, Field(38)),
    Call("FieldValues", 1, Field(52)),
    Call("FieldValues", 1, Field(59)),
    Call("FieldValues", 1, Field(82)),
    Call("FieldValues", 1, Field(230, _FIELD_VALUE)),
    Call("GpuFabricInfoV", struct(36, 2, 20, 28, 32)),
    Call("PersistenceMode", TOLD),
    Call("MigMode", TOLD, TOLD),
)
"""nvmlDeviceGet..., and what it is given after the GPU. All that nvml_probe.py asks: a test holds both together."""
OLDER = {
    "TemperatureV": Call("Temperature", 0, OUT),
    "ComputeRunningProcesses_v3": Call("ComputeRunningProcesses_v2", OUT, None),
    "GraphicsRunningProcesses_v3": Call("GraphicsRunningProcesses_v2", OUT, None),
    "CurrentClocksEventReasons": Call("CurrentClocksThrottleReasons", OUT),
}
"""What to ask a driver that does not know the first."""
FIGURES = {
    "TemperatureV": 8,
    "Temperature": 0,
    "PowerUsage": 0,
    "UtilizationRates": 0,
    "ClockInfo": 0,
}
"""Where in the answer they are."""

BLOCK = (c_char * (_SLOT_BYTES * _SLOTS))()
SLOTS = tuple(c_void_p(addressof(BLOCK) + slot * _SLOT_BYTES) for slot in range(_SLOTS))


class Driver:
    """The library, for one look."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._library = CDLL(LIBRARY)

    def call(self, name: str, *given: object) -> tuple[int, list[int]]:
        """NVML's code, and the numbers that are to be told, where it is 0. Lists are asked for their length only."""
        function = getattr(self._library, f"nvml{name}", None)
        if function is None:
            return FUNCTION_NOT_FOUND, []
        arguments, told, slot = list(given), [], 0
        for place, one in enumerate(given):
            if isinstance(one, Out):
                at = slot * _SLOT_BYTES
                c_ulonglong.from_buffer(BLOCK, at).value = one.head
                arguments[place] = SLOTS[slot]
                told += [at + offset for offset in one.told]
                slot += 1
        code = int(function(*arguments))
        if code == _INSUFFICIENT_SIZE and given[-1] is None:
            code = _SUCCESS
        return code, [] if code else [number(at) for at in told]


def number(at: int) -> int:
    return int(c_uint.from_buffer(BLOCK, at).value)


def look() -> str:
    """State and all that belongs to it, in a process of its own. The driver is let go again."""
    try:
        driver = Driver()
    except OSError as error:
        text = str(error)
        absent = text.startswith(LIBRARY) and "No such file" in text
        return f"{'no_driver' if absent else 'failed'}\tcannot load {LIBRARY}: {text}"
    code, _ = driver.call("InitWithFlags", 0)
    if code:
        return f"failed\tnvmlInitWithFlags says {code}"
    code, counted = driver.call("DeviceGetCount_v2", TOLD)
    if code:
        driver.call("Shutdown")
        return f"failed\tnvmlDeviceGetCount_v2 says {code}"
    marks, figures = [f"gpus:{counted[0]}"], []
    for call in SYSTEM:
        code, _ = driver.call(call.name, *call.given)
        if code:
            marks.append(f"{call.name}={code}")
    for index in range(counted[0]):
        figures.append(f"{index}:" + look_at(driver, index, marks))
    driver.call("Shutdown")
    return f"ok\t{' '.join(marks)}\t{' '.join(figures)}"


def look_at(driver: Driver, index: int, marks: list[str]) -> str:
    """Its figures; what is to be noted of it goes to `marks`."""
    code, _ = driver.call("DeviceGetHandleByIndex_v2", index, OUT)
    if code:
        marks.append(f"{index}.Handle={code}")
        return "?.?.?.?"
    gpu, figures = c_void_p(c_ulonglong.from_buffer(BLOCK, 0).value), {}
    for call in GPU:
        name = call.name
        code, told = driver.call(f"DeviceGet{name}", gpu, *call.given)
        if code == FUNCTION_NOT_FOUND and name in OLDER:
            name = OLDER[name].name
            code, told = driver.call(f"DeviceGet{name}", gpu, *OLDER[call.name].given)
        if isinstance(call.given[-1], Field):
            name, code = f"{name}.{call.given[-1].head}", code or number(_FIELD_ERROR)
        if code:
            marks.append(f"{index}.{name}={code}")
        elif any(told):
            marks.append(f"{index}.{name}:{'.'.join(map(str, told))}")
        if name in FIGURES and not code:
            figures[name] = number(FIGURES[name])
    look_at_links(driver, gpu, index, marks)
    temperature_c = figures.get("TemperatureV", figures.get("Temperature", "?"))
    rest = [figures.get(name, "?") for name in ("PowerUsage", "UtilizationRates", "ClockInfo")]
    return ".".join(map(str, (temperature_c, *rest)))


def look_at_links(driver: Driver, gpu: c_void_p, index: int, marks: list[str]) -> None:
    states = ""
    for link in range(_LINKS_MAX):
        code, told = driver.call("DeviceGetNvLinkState", gpu, link, TOLD)
        if code:
            if code not in (_NOT_SUPPORTED, _INVALID_ARGUMENT):
                marks.append(f"{index}.NvLinkState.{link}={code}")
            break
        states += str(told[0])
    if states:
        marks.append(f"{index}.NvLinkState:{states}")


class Forks:
    """One at a time."""

    def __init__(self) -> None:
        self._stuck = 0

    def look(self, deadline_s: float) -> str:
        if self._stuck:
            if os.waitpid(self._stuck, os.WNOHANG)[0] == 0:
                return f"0\thung\t{self._stuck}"
            self._stuck = 0
        while signal.sigtimedwait({signal.SIGCHLD}, 0):
            pass
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            work(writer)
        os.close(writer)
        try:
            return self._answer(pid, reader, deadline_s)
        finally:
            os.close(reader)

    def _answer(self, pid: int, reader: int, deadline_s: float) -> str:
        is_over = signal.sigtimedwait({signal.SIGCHLD}, deadline_s) is not None
        if not is_over:
            os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, KILL_GRACE_S)
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if not ended:
            self._stuck = pid
            return f"0\thung\t{pid}"
        cpu_ms = (usage.ru_utime + usage.ru_stime) * 1000
        if not is_over:
            return f"{cpu_ms:.2f}\thung\t"
        told = os.read(reader, ANSWER_BYTES_MAX) if status == 0 else b""
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
        return f"{cpu_ms:.2f}\t{told.decode(errors='replace')}" if told else f"{cpu_ms:.2f}\tdied\t{how}"


def work(writer: int) -> None:
    """The fork, to its end: nothing of it may go on as the process that it was forked from."""
    exit_code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.dup2(2, 1)  # what a driver prints must not mix with the answers
        told = look().replace("\n", " ").encode(errors="replace")
        os.write(writer, told[:ANSWER_BYTES_MAX])
        exit_code = 0
    finally:
        os._exit(exit_code)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    forks = Forks()
    gc.disable()
    gc.freeze()  # pages that nobody writes to are shared with each fork
    for line in sys.stdin:
        _, _, deadline_s = line.strip().partition(" ")
        os.write(1, f"{forks.look(float(deadline_s))}\n".encode())


if __name__ == "__main__":
    main()
