"""How fast bytes go between host and GPUs, by a child that copies them (cuda_bench.py), one GPU after the other.

While a link is busy its generation and width are read: an idle one runs slower by design. A GPU that somebody uses or
has rented is left alone.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.nvml import NvmlProbe
from kaalia.host.process import Child
from kaalia.model.machine import Gpu
from kaalia.model.measurement import Measurement

CUDA_BENCH = Path(__file__).with_name("cuda_bench.py")
DEADLINE_S = 30.0
"""CUDA begins within seconds, and each part takes 1.2 s."""
SETTLE_S = 0.3
"""After a copy has begun: the link needs some milliseconds to wake."""

_PARTS = {"up": "pcie_up_gbps", "down": "pcie_down_gbps", "copy": "memory_copy_gbps"}
_UNITS = {
    **dict.fromkeys(_PARTS.values(), "GB/s"),
    "pcie_gen_under_load": "generation",
    "pcie_width_under_load": "lanes",
}


async def pcie(
    gpus: Sequence[Gpu],
    busy: Collection[str],
    probe: NvmlProbe,
    now: datetime,
    environment: Mapping[str, str],
) -> tuple[Measurement, ...]:
    """`busy`: UUIDs of GPUs that are left alone; `environment`: of the children. Nothing raises."""
    found: list[Measurement] = []
    for gpu in gpus:
        if gpu.uuid in busy:
            found += _untold(gpu, "the GPU is in use: it is measured when nobody has it", now)
        else:
            found += await _one(gpu, probe, now, environment)
    return tuple(found)


async def _one(gpu: Gpu, probe: NvmlProbe, now: datetime, environment: Mapping[str, str]) -> list[Measurement]:
    here = {**environment, "CUDA_VISIBLE_DEVICES": gpu.uuid}
    try:
        child = await Child.start((sys.executable, "-I", str(CUDA_BENCH)), here)
    except HostError as error:
        return _untold(gpu, error.problem.message, now)
    try:
        up, _ = await _asked(child, "up")  # CUDA begins, and the link wakes
        (up, length_s), link = await asyncio.gather(_asked(child, "up"), _link(gpu, probe))
        found = [_measured("pcie_up_gbps", gpu, up, length_s, now), *_under_load(gpu, link, length_s, now)]
        for request in ("down", "copy"):
            rates, length_s = await _asked(child, request)
            found.append(_measured(_PARTS[request], gpu, rates, length_s, now))
        return found
    except HostError as error:
        return _untold(gpu, error.problem.message, now)
    finally:
        await child.close()


async def _asked(child: Child, request: str) -> tuple[list[float], float]:
    """The rates of the rounds, and how long they took. Raises HostError, also `link_unmeasured`."""
    begin_s = asyncio.get_running_loop().time()
    line = await child.request(request, DEADLINE_S)
    try:
        said = json.loads(line)
        if "reason" in said:
            raise HostError("link_unmeasured", f"cannot measure the link: {said['reason']}")
        return [float(one) for one in said["gbps"]], asyncio.get_running_loop().time() - begin_s
    except (ValueError, KeyError, TypeError) as error:
        raise HostError("link_unmeasured", f"cannot measure the link: the answer was {line[:100]!r}") from error


async def _link(gpu: Gpu, probe: NvmlProbe) -> Gpu | None:
    await asyncio.sleep(SETTLE_S)
    reading = await probe.read()
    return next((one for one in reading.gpus if one.uuid == gpu.uuid), None)


def _measured(name: str, gpu: Gpu, rates: Sequence[float], length_s: float, now: datetime) -> Measurement:
    mean = statistics.fmean(rates)
    spread = statistics.stdev(rates) / mean if len(rates) > 1 and mean else None
    return Measurement(name, gpu.uuid, round(mean, 2), _UNITS[name], "", now, length_s, spread)


def _under_load(gpu: Gpu, link: Gpu | None, length_s: float, now: datetime) -> list[Measurement]:
    told = {
        "pcie_gen_under_load": link.pci_gen_current if link else None,
        "pcie_width_under_load": link.pci_width_current if link else None,
    }
    reason = "the driver did not tell the link while it was busy"
    return [
        Measurement(
            *(name, gpu.uuid, None if value is None else float(value), _UNITS[name], "", now, length_s),
            reason="" if value is not None else reason,
        )
        for name, value in told.items()
    ]


def _untold(gpu: Gpu, reason: str, now: datetime) -> list[Measurement]:
    return [Measurement(name, gpu.uuid, None, unit, "", now, 0.0, reason=reason) for name, unit in _UNITS.items()]
