"""Whether anything is otherwise with the GPUs than at the last look: asked by a process that stays (`nvml_look_child`).

It makes every call that a reading makes (`nvml`), and tells what is not as it should be in a few words, for some
milliseconds of CPU. What the words mean is for the reading that follows when they change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import Child
from kaalia.model.gpu_health import GpuFigures, NvmlState

CHILD = Path(__file__).with_name("nvml_look_child.py")
GRACE_S = 3.0
"""Beyond the deadline: for the fork that is to be killed, and on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Look:
    """`marks`: what is not as it should be, or why nothing is known; the same words for the same.

    `figures`: by index. `stuck`: the process that cannot be killed.
    """

    state: NvmlState
    marks: str = ""
    figures: Mapping[int, GpuFigures] = field(default_factory=dict)
    cpu_s: float = 0.0
    stuck: int = 0


class Looker:
    """Keeps the process that looks; starts another when it is gone."""

    def __init__(self, python: str, env: Mapping[str, str] | None) -> None:
        # Optimized: without docstrings it is smaller.
        self._argv = (python, "-I", "-S", "-OO", str(CHILD))
        self._env = env
        self._child: Child | None = None

    async def look(self, deadline_s: float) -> Look:
        """Raises nothing of its own. One at a time."""
        if self._child is not None and not self._child.alive:
            self._child = None
        try:
            if self._child is None:
                self._child = await Child.start(self._argv, self._env)
            return parse(await self._child.request(f"look {deadline_s:g}", deadline_s + GRACE_S))
        except HostError as error:
            return Look(NvmlState.FAILED, f"the process that looks at the driver is gone: {error.code}")

    async def rest(self) -> None:
        """End the process until the next look; a fork that is stuck in the driver would be forgotten."""
        if self._child is not None:
            await self._child.kill()
            self._child = None


def parse(line: str) -> Look:
    """The child's answer, checked."""
    try:
        cpu_ms, state, *rest = line.split("\t")
        cpu_s = float(cpu_ms) / 1000
        match state, rest:
            case "ok", [marks, figures]:
                return Look(NvmlState.OK, marks, dict(map(_figures, figures.split())), cpu_s)
            case "hung", [stuck]:
                return Look(NvmlState.HUNG, "", {}, cpu_s, int(stuck or 0))
            case "no_driver", [why]:
                return Look(NvmlState.NO_DRIVER, why, {}, cpu_s)
            case (("failed" | "died"), [why]):
                return Look(NvmlState.FAILED, why, {}, cpu_s)
    except ValueError:
        pass
    return Look(NvmlState.FAILED, f"cannot understand the answer {line[:200]!r}")


def _figures(text: str) -> tuple[int, GpuFigures]:
    """Of `3:41.62000.97.1900`, index and all. Raises ValueError."""
    index, _, rest = text.partition(":")
    temperature_c, power_mw, percent, clock_mhz = map(_number, rest.split("."))
    power_w = None if power_mw is None else power_mw / 1000
    return int(index), GpuFigures(temperature_c, power_w, percent, clock_mhz)


def _number(text: str) -> int | None:
    return None if text == "?" else int(text)
