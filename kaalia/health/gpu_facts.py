"""What a rule of gpu.toml is about: the facts of one GPU, as read or worked out of several. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kaalia.health.gpu_rules import Book
from kaalia.model.gpu_health import BusGpu, GpuSample, KnownGpu
from kaalia.model.power import PowerMark

HW_POWER_BRAKE = 0x80
HW_SLOWDOWN = 0x08 | 0x40 | HW_POWER_BRAKE
HEAT = 0x20 | 0x40
"""Slowed down by software, by hardware."""
POWER_CAP = 0x04
BY_DESIGN = 0x01 | 0x02 | POWER_CAP | 0x10
"""Idle, set so by the owner, at its power limit, in step with others. Bits: NVML API, nvmlClocksEventReasons."""

_RECOVER_BY_RESET = frozenset({1, 4, 6})
_RECOVER_BY_REBOOT = frozenset({2, 7})
"""nvmlDeviceGpuRecoveryAction_t: reset, drain and reset, reset of the bus; reboot of the node, of the system."""
_FABRIC_NONE, _FABRIC_WAITS, _FABRIC_DONE = 0, frozenset({1, 2}), 3
"""nvmlGpuFabricState_t."""
_FABRIC_BANDWIDTH, _FABRIC_ROUTES = 0, 4
"""Where in nvmlGpuFabricInfo_v2_t.healthMask two bits say so: 1 is true."""


class UnreadError(Exception):
    """Not known by this reading. `least`: it is this or more."""

    def __init__(self, least: float | None = None) -> None:
        super().__init__()
        self.least = least


class UntoldError(Exception):
    """This model or driver has no such thing."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The reading before, of the same boot."""

    read_at: datetime
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class View:
    """One GPU at one moment. `reasons`: of the newest readings, this one last, why its clock was what it was."""

    sample: GpuSample
    read_at: datetime
    known: KnownGpu
    bus: BusGpu | None
    before: Earlier | None
    reasons: Sequence[int]
    book: Book
    set_here: PowerMark | None = None
    """What the owner's power policy holds it at."""

    def value(self, fact: str) -> float | None:
        """None: there is no such thing here. Raises UnreadError."""
        worked_out = _WORKED_OUT.get(fact)
        try:
            return worked_out(self) if worked_out else self.read(fact)
        except UntoldError:
            return None

    def read(self, fact: str) -> float:
        """A fact as the driver told it. Raises UnreadError, UntoldError."""
        if fact in self.sample.facts:
            return self.sample.facts[fact]
        raise UntoldError if self._error(fact) in self.book.absent else UnreadError

    def _error(self, fact: str) -> str:
        """Of the fact, or of the call that tells it with others: `rows` for `rows_pending`."""
        found = self.sample.errors.get(fact)
        return found if found is not None else self.sample.errors.get(fact.rpartition("_")[0], "")

    def per_s(self, fact: str) -> float:
        """By how much a counter grew. Raises UnreadError, UntoldError."""
        now = self.read(fact)
        if self.before is None or fact not in self.before.facts:
            raise UnreadError
        passed_s = (self.read_at - self.before.read_at).total_seconds()
        grown = now - self.before.facts[fact]
        if passed_s <= 0 or grown < 0:  # the clock was set, or the driver was loaded anew
            raise UnreadError
        return grown / passed_s

    def share(self, bits: int) -> float:
        """In how many of the newest readings one of the reasons stood. Raises UnreadError, UntoldError."""
        self.read("clock_reasons")
        share = sum(bool(one & bits) for one in self.reasons) / self.book.window
        if len(self.reasons) < self.book.window:  # after a start: what was before is not known
            raise UnreadError(least=share)
        return share

    def loaded(self) -> None:
        """Raises UnreadError while it idles, UntoldError."""
        if self.read("utilization_percent") < self.book.load_percent:
            raise UnreadError


def _slowed(counter: str, bits: int) -> Callable[[View], float]:
    """By the driver's clock of it, or by the reasons on models that have none."""

    def share(view: View) -> float:
        try:
            return min(1.0, view.per_s(counter))
        except UntoldError:
            return view.share(bits)

    return share


def _clock_share(view: View) -> float:
    view.loaded()
    most = view.read("sm_clock_max_mhz") or 1
    if view.set_here and view.set_here.clock_max_mhz:
        most = min(most, view.set_here.clock_max_mhz)
    return view.read("sm_clock_mhz") / most


def _unexplained_clock_share(view: View) -> float:
    return 1.0 if int(view.read("clock_reasons")) & BY_DESIGN else _clock_share(view)


def _power_capped_clock_share(view: View) -> float:
    limit_w, set_w = view.read("power_limit_w"), view.set_here.power_w if view.set_here else None
    if limit_w >= view.read("power_default_w") or (set_w is not None and limit_w >= set_w):
        return 1.0
    share = _clock_share(view)
    return share if _slowed("power_slowed_s", POWER_CAP)(view) > 0.5 else 1.0


def _lost(current: str, most: str, best_of_bus: Callable[[BusGpu], int | None]) -> Callable[[View], float]:
    """How far a link is below what both card and slot can, while it works."""

    def lost(view: View) -> float:
        view.loaded()
        best = view.read(most)
        on_bus = best_of_bus(view.bus) if view.bus else None
        return max(0.0, (best if on_bus is None else min(best, on_bus)) - view.read(current))

    return lost


def _margin(limit: str, value: str) -> Callable[[View], float]:
    """Boards without the sensor tell 0 for it."""

    def margin(view: View) -> float:
        most, now = view.read(limit), view.read(value)
        if most <= 0 or now <= 0:
            raise UntoldError
        return most - now

    return margin


def _fabric(is_so: Callable[[int, int, int], bool]) -> Callable[[View], float]:
    """Of state, status and health of GPUs that are made for a fabric."""

    def found(view: View) -> float:
        state, status, health = (int(view.read(f"fabric_{part}")) for part in ("state", "status", "health"))
        if state == _FABRIC_NONE:
            raise UntoldError
        return float(is_so(state, status, health))

    return found


def _is_degraded(state: int, status: int, health: int) -> bool:
    return any(health >> shift & 3 == 1 for shift in (_FABRIC_BANDWIDTH, _FABRIC_ROUTES))


_WORKED_OUT: Mapping[str, Callable[[View], float]] = {
    "recovery_reset": lambda view: float(view.read("recovery_action") in _RECOVER_BY_RESET),
    "recovery_reboot": lambda view: float(view.read("recovery_action") in _RECOVER_BY_REBOOT),
    "ecc_mode_pending": lambda view: float(view.read("ecc_current") != view.read("ecc_pending")),
    "temperature_margin_c": _margin("temperature_limit_c", "temperature_c"),
    "memory_margin_c": _margin("memory_limit_c", "memory_c"),
    "thermal_share": _slowed("thermal_slowed_s", HEAT),
    "hw_slowdown_share": lambda view: view.share(HW_SLOWDOWN),
    "power_brake_share": lambda view: view.share(HW_POWER_BRAKE),
    "clock_share": _unexplained_clock_share,
    "power_capped_clock_share": _power_capped_clock_share,
    "pcie_gen_lost": _lost("pci_gen_current", "pci_gen_max", lambda bus: bus.gen_best),
    "pcie_width_lost": _lost("pci_width_current", "pci_width_max", lambda bus: bus.width_best),
    "pcie_replays_per_min": lambda view: 60 * view.per_s("pcie_replays"),
    "nvlinks_lost": lambda view: max(0.0, view.known.nvlinks - view.read("nvlinks_up")),
    "nvlink_crc_per_s": lambda view: view.per_s("nvlink_crc"),
    "nvlink_errors_per_min": lambda view: 60 * (view.per_s("nvlink_replays") + view.per_s("nvlink_recoveries")),
    "fabric_waiting": _fabric(lambda state, status, health: state in _FABRIC_WAITS),
    "fabric_failed": _fabric(lambda state, status, health: state == _FABRIC_DONE and status != 0),
    "fabric_degraded": _fabric(_is_degraded),
    "persistence_off": lambda view: float(view.read("persistence_mode") == 0),
}
