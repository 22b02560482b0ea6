"""What a work program says, as values. The programs lie beside this file; the daemon only reads what they write.

A work program does one step of the self-test and imports nothing of the daemon: it runs on the host and, copied, in the
self-test image (the folders kaalia/selftest/work are kept there, so that it finds its parts).

    python -I -S kaalia/selftest/work/memory.py '{"gpus": ["GPU-..."], "quick": true}'

Its one argument is a JSON object; every key has a default, and a key that a program does not know is no matter:

    gpus         UUIDs of the GPUs that it may use, absent: all that CUDA shows
    quick        as short as still proves something
    minutes      of the burn
    deadline_s   for each wait of a GPU program: what takes longer is told as gpu_hung (30)

It writes JSON, one object a line, and nothing else, to stdout:

    {"progress": 0.4, "words": "pattern 2 of 5"}          share of the step, 0 to 1
    {"figure": {"name": "matrix_tflops", "value": 150.2, "unit": "TFLOPS", "gpu_uuid": "GPU-...", "spread": 0.01}}
    {"sample": {"at_s": 12.5, "gpu_uuid": "GPU-...", "throughput": 149.8}}     temperature_c, clock_mhz, power_w too
    {"end": "passed", "code": "", "words": "...", "remedy": ""}      passed, failed or skipped; the last line

`gpu_uuid` null: of the whole machine. Whoever wrote an end line exits with 0; without one the program died, and what it
says of that stands on stderr. It ends by itself when its parent is gone. A caller sets a deadline nevertheless: what
hangs in the driver ends by no one's will.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from kaalia.errors import HostError
from kaalia.model.selftest import Figure, Outcome, Sample


@dataclass(frozen=True, slots=True)
class Progress:
    """`share` of the step that is done, 0 to 1."""

    share: float
    words: str


@dataclass(frozen=True, slots=True)
class End:
    """The verdict: `code` and `remedy` of one that failed, else empty."""

    outcome: Outcome
    code: str
    words: str
    remedy: str


Line = Progress | Figure | Sample | End


def read(line: str) -> Line | None:
    """One line of a work program. None: a kind of line that this version does not know.

    Raises HostError `work_garbled` for what no work program writes.
    """
    try:
        said = json.loads(line)
        if not isinstance(said, dict):
            raise TypeError("no object")
        if "progress" in said:
            return Progress(_number(said["progress"]), str(said.get("words", "")))
        if "figure" in said:
            return _figure(said["figure"])
        if "sample" in said:
            return _sample(said["sample"])
        if "end" in said:
            texts = (str(said.get(key) or "") for key in ("code", "words", "remedy"))
            return End(Outcome(said["end"]), *texts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HostError(
            "work_garbled",
            f"cannot understand a work program's line {line[:200]!r}: {error}",
            remedy="see whether the driver's library is whole: reinstall the NVIDIA driver; else report it",
        ) from None
    return None


def _figure(said: dict[str, Any]) -> Figure:
    spread, uuid = said.get("spread"), said.get("gpu_uuid")
    return Figure(
        name=str(said["name"]),
        value=_number(said["value"]),
        unit=str(said["unit"]),
        gpu_uuid=None if uuid is None else str(uuid),
        spread=None if spread is None else _number(spread),
    )


def _sample(said: dict[str, Any]) -> Sample:
    readings = ("temperature_c", "clock_mhz", "power_w", "throughput")
    told = {key: None if said.get(key) is None else _number(said[key]) for key in readings}
    return Sample(at_s=_number(said["at_s"]), gpu_uuid=str(said["gpu_uuid"]), **told)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number
