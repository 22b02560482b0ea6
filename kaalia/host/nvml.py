"""GPUs as the driver tells them, read through a killable child (host/nvml_probe.py): the daemon never calls the driver.

The child lives for one reading. Kept, it would hold 11-12 MiB PSS of the daemon's 60 (simulated 8-GPU driver; a real
one maps more) and the open device files that block driver upgrades and GPU resets; started anew it costs 76 ms of CPU,
0.13 % of a core at one reading a minute, counters and all. Between two readings a look (`nvml_look`) tells whether
another is worth it. One thing at a time is asked, and children do not pile up: while one that was killed is stuck in
the driver, the answer is HUNG without starting another.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kaalia.errors import HostError
from kaalia.host import nvml_parts
from kaalia.host.nvml_look import Look, Looker
from kaalia.host.nvml_parts import PartsReading
from kaalia.host.patience import Patience
from kaalia.host.process import Child
from kaalia.model.gpu_health import GpuSample, NvmlState
from kaalia.model.machine import Gpu, GpuDriver, Missing

PROBE = Path(__file__).with_name("nvml_probe.py")
INVENTORY = Path(__file__).with_name("nvml_inventory.py")
"""The same, which can tell more."""
DEADLINE_S = 30.0
"""Without persistence mode the driver wakes each GPU first, a second or two apiece; a hang lasts for ever."""

_GPU_FIELDS = frozenset(Gpu.__dataclass_fields__)
_REQUIRED = ("uuid", "name", "vram_mb")


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """`missing` names fields as `gpus.0.power_draw_w`, `gpus.1` (a GPU that cannot be identified) or `driver`."""

    state: NvmlState
    reason: str = ""
    driver: GpuDriver | None = None
    gpus: tuple[Gpu, ...] = ()
    missing: tuple[Missing, ...] = ()
    processes: tuple[tuple[str, int], ...] = ()
    """(GPU UUID, process id) of each that uses a GPU. `missing` has `gpus.0.processes` where they cannot be told."""
    error: str = ""
    """NVML's, by name, where it failed by one."""
    samples: tuple[GpuSample, ...] = ()
    """How each GPU is, those that cannot be identified too."""
    counting: NvmlState = NvmlState.OK
    """How the reading of the counters went; `uncounted` says why where it is not OK."""
    uncounted: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    """NVML's error by name for each field of the driver itself that was not read."""


class NvmlProbe:
    """Reads the GPUs. `env` is the child's whole environment; None: the daemon's own.

    `deadline_s`: for a driver of which nothing is known yet, and the most for any.
    """

    def __init__(
        self, python: str = sys.executable, env: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._python = (python, "-I")
        self._env = env
        self._reading, self._surveying, self._looking = (Patience(deadline_s) for _ in range(3))
        self._stuck: Child | None = None
        self._looker = Looker(python, env)
        self._stuck_look = 0
        """A process that looked, and cannot be killed."""
        self._one_at_a_time = asyncio.Lock()

    async def read(self) -> NvmlReading:
        """One reading; raises nothing of its own."""
        reading, _ = await self._ask(PROBE)
        return reading

    async def survey(self) -> tuple[NvmlReading, PartsReading]:
        """As `read`, and what stays of the GPUs. A driver that fails at the latter has told the former."""
        return await self._ask(INVENTORY)

    async def look(self) -> Look:
        """Whether anything is otherwise than at the last look; raises nothing of its own. A process stays: `rest`."""
        async with self._one_at_a_time:
            if self._stuck is not None and self._stuck.alive:
                return Look(NvmlState.HUNG, _held(self._stuck.pid))
            deadline_s, began_s = self._looking.now_s, asyncio.get_running_loop().time()
            found = await self._looker.look(deadline_s)
            self._stuck_look = found.stuck
            if found.stuck:
                return replace(found, marks=_held(found.stuck))
            if found.state is NvmlState.HUNG:
                self._looking.in_vain()
                return replace(found, marks=_silent(deadline_s))
            self._looking.answered(asyncio.get_running_loop().time() - began_s)
            self._reading.forget()
            return found

    async def rest(self) -> None:
        """End the process that looks; the next look starts another."""
        async with self._one_at_a_time:
            await self._looker.rest()

    async def _ask(self, script: Path) -> tuple[NvmlReading, PartsReading]:
        async with self._one_at_a_time:
            stuck = self._stuck.pid if self._stuck is not None and self._stuck.alive else self._stuck_look
            if stuck:
                return _without_parts(NvmlReading(NvmlState.HUNG, _held(stuck)))
            began_s = asyncio.get_running_loop().time()
            reading, parts = await self._ask_child(script, began_s + self._reading.now_s)
            if NvmlState.HUNG in (reading.state, reading.counting):
                self._reading.in_vain()
            else:
                self._reading.answered(asyncio.get_running_loop().time() - began_s)
            return reading, parts

    async def _ask_child(self, script: Path, until_s: float) -> tuple[NvmlReading, PartsReading]:
        self._stuck = None
        try:
            child = await Child.start((*self._python, str(script)), self._env)
        except HostError as error:
            return _without_parts(NvmlReading(NvmlState.FAILED, error.problem.message))
        try:
            reading = parse(await child.request("read", self._reading.now_s))
            if reading.samples:
                reading = await self._counted(child, reading, until_s)
            if script != INVENTORY or reading.state is not NvmlState.OK:
                return _without_parts(reading)
            return reading, await self._parts(child)
        except HostError as error:
            return _without_parts(NvmlReading(*self._unanswered(error)))
        finally:
            await child.kill()  # it has let the driver go with each answer; to end by itself would take it 5 ms of CPU
            self._stuck = child

    async def _parts(self, child: Child) -> PartsReading:
        """After a child that died over the counters there is none to be asked."""
        began_s = asyncio.get_running_loop().time()
        try:
            answer = await child.request("inventory", self._surveying.now_s)
        except HostError as error:
            _, why = self._unanswered(error, self._surveying)
            self._surveying.in_vain()
            return nvml_parts.failed(why)
        self._surveying.answered(asyncio.get_running_loop().time() - began_s)
        return nvml_parts.parse(answer)

    async def _counted(self, child: Child, reading: NvmlReading, until_s: float) -> NvmlReading:
        """With the counters, as far as they can be had: without them the GPUs stay what they are."""
        left_s = max(0.0, until_s - asyncio.get_running_loop().time())
        try:
            line = await child.request("counters", left_s)
        except HostError as error:
            state, why = self._unanswered(error)
            return replace(reading, counting=state, uncounted=why)
        return with_counters(reading, line)

    def _unanswered(self, error: HostError, patience: Patience | None = None) -> tuple[NvmlState, str]:
        if error.code == "child_hung":
            return NvmlState.HUNG, _silent((patience or self._reading).now_s)
        evidence = error.problem.evidence.strip().splitlines()
        detail = f": {evidence[-1]}" if evidence else ""
        return NvmlState.FAILED, f"the probe of the driver died ({error.code}){detail}"


def _held(pid: int) -> str:
    return f"the driver still holds an earlier reading that cannot be killed: process {pid}, see /proc/{pid}/stack"


def _silent(deadline_s: float) -> str:
    return f"the driver did not answer within {deadline_s:g} s"


def _without_parts(reading: NvmlReading) -> tuple[NvmlReading, PartsReading]:
    return reading, nvml_parts.failed(reading.reason)


def parse(line: str) -> NvmlReading:
    """The probe's answer, checked: what it lacks becomes `missing`."""
    try:
        answer = json.loads(line)
        state = NvmlState(answer["state"])
        if state is not NvmlState.OK:
            return NvmlReading(state, str(answer.get("reason", "")), error=str(answer.get("error", "")))
        return _reading(answer)
    except (ValueError, KeyError, TypeError) as error:
        return NvmlReading(NvmlState.FAILED, f"cannot understand the probe's answer {line[:200]!r}: {error!r}")


def with_counters(reading: NvmlReading, line: str) -> NvmlReading:
    """Its samples with what the probe answered to `counters`, GPU by GPU."""
    try:
        answer = json.loads(line)
        state = NvmlState(answer["state"])
        if state is not NvmlState.OK:
            return replace(reading, counting=state, uncounted=str(answer.get("reason", "")))
        told = {int(entry["index"]): entry for entry in answer["gpus"]}
        samples = tuple(_added(sample, told.get(sample.index)) for sample in reading.samples)
        return replace(reading, samples=samples)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"cannot understand the probe's answer {line[:200]!r}: {error!r}"
        return replace(reading, counting=NvmlState.FAILED, uncounted=why)


def _added(sample: GpuSample, entry: dict[str, Any] | None) -> GpuSample:
    """Nothing is added of a GPU that came or went between the two: an index may be another's then."""
    if entry is None or entry.get("uuid", sample.uuid) != sample.uuid:
        return replace(sample, errors={**sample.errors, "counters": "the GPU changed while it was read"})
    return replace(sample, facts={**sample.facts, **_facts(entry)}, errors={**sample.errors, **entry["errors"]})


def _sample(entry: dict[str, Any]) -> GpuSample:
    return GpuSample(
        int(entry["index"]),
        entry.get("uuid"),
        str(entry.get("name", "")),
        entry.get("pci_address"),
        _facts(entry),
        dict(entry["errors"]),
    )


def _facts(entry: dict[str, Any]) -> dict[str, float]:
    """The numbers among its fields; several of one name as `name_part`."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        parts = {f"{name}_{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: each for key, each in parts.items() if isinstance(each, int | float) and name not in _NO_FACTS}
    return found


_NO_FACTS = frozenset({"index", "errors"})


def _reading(answer: dict[str, Any]) -> NvmlReading:
    gpus: list[Gpu] = []
    missing: list[Missing] = []
    for entry in answer["gpus"]:
        gpu, gaps = _gpu(entry)
        missing += gaps
        if gpu is not None:
            gpus.append(gpu)
    driver, gaps = _driver(answer)
    users, samples = tuple(_processes(answer["gpus"])), tuple(map(_sample, answer["gpus"]))
    errors = dict(answer["errors"])
    return NvmlReading(NvmlState.OK, "", driver, tuple(gpus), (*gaps, *missing), users, samples=samples, errors=errors)


def _processes(entries: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        if "uuid" in entry:
            yield from ((entry["uuid"], int(pid)) for pid in entry.get("processes", ()))


def _gpu(entry: dict[str, Any]) -> tuple[Gpu | None, list[Missing]]:
    errors: dict[str, str] = entry["errors"]
    where = f"gpus.{entry['index']}"
    for name in ("handle", *_REQUIRED):
        if name in errors:
            return None, [Missing(where, f"cannot read its {name}: {errors[name]}")]
    values = {field: value for field, value in entry.items() if field in _GPU_FIELDS}
    if "compute_capability" in values:
        major, minor = values["compute_capability"]
        values["compute_capability"] = (int(major), int(minor))
    return Gpu(**values), [Missing(f"{where}.{field}", reason) for field, reason in errors.items()]


def _driver(answer: dict[str, Any]) -> tuple[GpuDriver | None, list[Missing]]:
    errors: dict[str, str] = answer["errors"]
    if "driver_version" in errors:
        return None, [Missing("driver", errors["driver_version"])]
    cuda = answer.get("cuda_version")  # 12080 is 12.8
    version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
    missing = [Missing("driver.cuda_version", errors["cuda_version"])] if "cuda_version" in errors else []
    return GpuDriver(answer["driver_version"], version, bool(answer["simulated"])), missing
