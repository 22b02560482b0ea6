"""What the driver and the bus tell of how the GPUs are, at one moment. Never sent: conditions are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class NvmlState(StrEnum):
    """How a reading of the driver went."""

    OK = "ok"
    NO_DRIVER = "no_driver"
    """The driver's library is absent: legal, a machine without GPUs."""
    FAILED = "failed"
    """The driver refused with an error of NVML, or the process that asked it ended."""
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU. `facts`: what was read, by name; `errors`: NVML's error by name for each field that was not.

    `uuid` None: not even that could be read.
    """

    index: int
    uuid: str | None = None
    name: str = ""
    pci_address: str | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BusGpu:
    """A GPU as the PCI bus shows it, whatever the NVIDIA driver says.

    `gen_best`, `width_best`: the best that both the card and the slot can do; None: the bus does not tell.
    """

    address: str
    driver: str | None
    gen_best: int | None = None
    width_best: int | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """`error`: NVML's, by name, where `state` is FAILED by one. `uncounted`: why it has no counters though it is OK.

    `errors`: NVML's error by name for each field of the driver itself that was not read. `out_of_turn`: read at once
    because something had changed; it tells nothing of what lasts, or of how fast something grows.
    """

    read_at: datetime
    boot_id: str
    state: NvmlState
    reason: str = ""
    error: str = ""
    uncounted: str = ""
    gpus: tuple[GpuSample, ...] = ()
    on_bus: tuple[BusGpu, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    out_of_turn: bool = False


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """What moves of one GPU; None: it does not tell."""

    temperature_c: int | None
    power_draw_w: float | None
    utilization_percent: int | None
    sm_clock_mhz: int | None


@dataclass(frozen=True, slots=True)
class KnownGpu:
    """A GPU that was there. `nvlinks`: the most that were up in the boot of `boot_id`."""

    uuid: str
    index: int
    name: str
    pci_address: str | None
    boot_id: str
    seen_at: datetime
    nvlinks: int = 0
