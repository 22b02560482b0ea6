"""Power limits and clocks of GPUs by what they do: idle, rented, the owner's default job; and the guard against heat.

A limit of the owner's that the GPU does not take is a problem that names its bounds, and nothing is set in its place.
Without a word of the owner a GPU has what it had before: policy ends are as quiet as its beginning.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kaalia.contracts.contract import ContractKind
from kaalia.errors import Problem
from kaalia.model.power import GpuPower, PowerMark, PowerSetting

TOLERANCE_W = 1.0
"""Drivers round to the milliwatt, some boards to the watt."""


class Use(StrEnum):
    IDLE = "idle"
    RENTED = "rented"
    DEFAULT_JOB = "default_job"


@dataclass(frozen=True, slots=True)
class Limits:
    power_w: float | None = None
    clock_max_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """Above `above_c` a GPU gets `power_w` (None: its least) until it is at `below_c` or less. None: no guard."""

    above_c: int | None = None
    below_c: int = 70
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class PowerPolicy:
    limits: Mapping[Use, Limits]
    guard: Guard = Guard()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of one GPU. None: what it had before. `problems`: what of the policy it does not take."""

    uuid: str
    use: Use
    power_w: float | None = None
    clock_max_mhz: int | None = None
    is_guarded: bool = False
    problems: tuple[Problem, ...] = ()


def use_of(kinds: Iterable[ContractKind]) -> Use:
    """By the contracts that hold the GPU. A self-test is a rental: it proves what a renter gets."""
    held = set(kinds)
    if not held:
        return Use.IDLE
    return Use.DEFAULT_JOB if held == {ContractKind.DEFAULT_JOB} else Use.RENTED


def wanted(policy: PowerPolicy, gpu: GpuPower, use: Use, was_guarded: bool) -> Wanted:
    """What the GPU should have now."""
    limits = policy.limits.get(use, Limits())
    problems: list[Problem] = []
    power_w = _checked_power(limits.power_w, gpu, f"power.{use}.power_w", problems)
    clock = _checked_clock(limits.clock_max_mhz, gpu, f"power.{use}.clock_max_mhz", problems)
    is_guarded = _is_guarded(policy.guard, gpu, was_guarded)
    if is_guarded:
        least = policy.guard.power_w if policy.guard.power_w is not None else gpu.min_w
        cool_w = _checked_power(least, gpu, "power.guard.power_w", problems)
        known = [each for each in (power_w, cool_w) if each is not None]
        power_w = min(known, default=None)
    return Wanted(gpu.uuid, use, power_w, clock, is_guarded, tuple(problems))


def setting(
    want: Wanted, gpu: GpuPower, mark: PowerMark | None, *, is_sure: bool = True
) -> tuple[PowerSetting | None, PowerMark | None]:
    """What to set now, None: nothing; and what is then known to be kaalia's doing, None: nothing any more.

    `mark`: what kaalia set on this GPU before, in this boot, or was about to set when it ended (not `is_sure`).
    """
    before_w = gpu.limit_w if mark is None or mark.power_w is None else mark.before_w
    target_w = want.power_w
    if target_w is None and mark is not None and mark.power_w is not None:
        target_w = before_w if before_w is not None else gpu.default_w
    power_w = None if target_w is None or _is_near(gpu.limit_w, target_w) else target_w
    had_clock = mark.clock_max_mhz if mark is not None else None
    clock = None if is_sure and want.clock_max_mhz == had_clock else want.clock_max_mhz
    unlock = want.clock_max_mhz is None and had_clock is not None
    change = None
    if power_w is not None or clock is not None or unlock:
        change = PowerSetting(gpu.uuid, power_w, clock, unlock)
    if want.power_w is None and want.clock_max_mhz is None:
        return change, None
    kept_w = before_w if want.power_w is not None else None
    boot_id = mark.boot_id if mark is not None else ""
    return change, PowerMark(gpu.uuid, boot_id, kept_w, want.power_w, want.clock_max_mhz)


def _is_guarded(guard: Guard, gpu: GpuPower, before: bool) -> bool:
    """An unknown temperature changes nothing."""
    if guard.above_c is None:
        return False
    if gpu.temperature_c is None:
        return before
    return gpu.temperature_c > guard.above_c or (before and gpu.temperature_c > guard.below_c)


def _checked_power(value_w: float | None, gpu: GpuPower, key: str, problems: list[Problem]) -> float | None:
    if value_w is None:
        return None
    if gpu.min_w is None or gpu.max_w is None:
        problems.append(
            Problem(
                "power_not_settable",
                f"cannot set {key} = {value_w:g} W: GPU {gpu.index} ({gpu.name}) does not tell what may be set",
                f"remove {key}; this model or driver has no power limit to be set",
            )
        )
        return None
    if not gpu.min_w - TOLERANCE_W <= value_w <= gpu.max_w + TOLERANCE_W:
        problems.append(
            Problem(
                "power_out_of_range",
                f"cannot set {key} = {value_w:g} W: GPU {gpu.index} ({gpu.name}) takes {gpu.min_w:g} to {gpu.max_w:g}",
                f"give {key} a value from {gpu.min_w:g} to {gpu.max_w:g}",
            )
        )
        return None
    return min(max(value_w, gpu.min_w), gpu.max_w)


def _checked_clock(value: int | None, gpu: GpuPower, key: str, problems: list[Problem]) -> int | None:
    if value is None or gpu.clock_max_mhz is None or value <= gpu.clock_max_mhz:
        return value
    problems.append(
        Problem(
            "power_out_of_range",
            f"cannot set {key} = {value} MHz: GPU {gpu.index} ({gpu.name}) runs at {gpu.clock_max_mhz} MHz at most",
            f"give {key} a value up to {gpu.clock_max_mhz}",
        )
    )
    return None


def _is_near(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TOLERANCE_W
