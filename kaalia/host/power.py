"""Power limits and clocks of the GPUs, read and set by a child (host/power_probe.py) that a hanging driver may keep."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.process import run
from kaalia.model.power import GpuPower, PowerSetting

PROBE = Path(__file__).with_name("power_probe.py")
DEADLINE_S = 30.0
_FIELDS = frozenset(each.name for each in fields(GpuPower))
NO_DRIVER = "power_no_driver"


@dataclass(frozen=True, slots=True)
class PowerReading:
    """After the setting. `refused`: what the driver did not do, by UUID, NVML's errors by name."""

    gpus: tuple[GpuPower, ...]
    refused: Mapping[str, tuple[str, ...]]


class PowerProbe:
    """`env`: the child's whole environment; None: this process's own."""

    def __init__(
        self, python: str = sys.executable, env: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._argv = (python, "-I", str(PROBE))
        self._env = env
        self._deadline_s = deadline_s

    async def apply(self, settings: Iterable[PowerSetting] = ()) -> PowerReading:
        """Set these, and read all GPUs. Raises HostError `power_no_driver` or `power_unreadable`."""
        text = json.dumps([asdict(one) for one in settings]).encode()
        try:
            done = await run(self._argv, self._deadline_s, env=self._env, stdin=text, check=True)
        except HostError as error:
            raise _unreadable(error.problem.message, evidence=error.problem.evidence) from error
        try:
            answer = json.loads(done.stdout)
            if answer["state"] != "ok":
                raise _unreadable(str(answer.get("reason", "")), is_absent=answer["state"] == "no_driver")
            gpus = tuple(
                GpuPower(**{name: value for name, value in entry.items() if name in _FIELDS})
                for entry in answer["gpus"]
                if not {"uuid", "name"} & entry["errors"].keys()
            )
            refused = {str(uuid): tuple(map(str, errors)) for uuid, errors in answer["refused"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(f"the probe's answer {done.stdout[:200]!r} is none ({error!r})") from error
        return PowerReading(gpus, refused)


def _unreadable(why: str, *, is_absent: bool = False, evidence: str = "") -> HostError:
    message = f"cannot read or set the power of the GPUs: {why}"
    if is_absent:
        return HostError(NO_DRIVER, message, remedy="install the NVIDIA driver")
    return HostError("power_unreadable", message, remedy="see: nvidia-smi, dmesg", evidence=evidence)
