"""What a GPU draws and may draw, and what is to be set on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuPower:
    """As the driver tells it. None: it does not. `default_w`: what the GPU has when nobody set anything."""

    uuid: str
    index: int
    name: str
    limit_w: float | None = None
    default_w: float | None = None
    min_w: float | None = None
    max_w: float | None = None
    temperature_c: int | None = None
    clock_max_mhz: int | None = None
    """The fastest that its SMs can run."""


@dataclass(frozen=True, slots=True)
class PowerSetting:
    """`power_w`, `clock_max_mhz` None: left as it is; `unlock`: clocks are given back to the driver."""

    uuid: str
    power_w: float | None = None
    clock_max_mhz: int | None = None
    unlock: bool = False


@dataclass(frozen=True, slots=True)
class PowerMark:
    """kaalia set something on this GPU, in this boot. `before_w`: its limit before that; `clocks`: they are locked."""

    uuid: str
    boot_id: str
    before_w: float | None
    power_w: float | None
    clock_max_mhz: int | None
