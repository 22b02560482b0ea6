"""Readings of GPUs that are well but for what a test says, as `capability` stores them; a machine judged by them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from kaalia.health.gpu_findings import known_after
from kaalia.health.gpu_judge import Judge
from kaalia.health.gpu_rules import book
from kaalia.model.gpu_health import BusGpu, GpuReading, GpuSample, KnownGpu, NvmlState
from kaalia.model.health import Condition
from kaalia.model.power import PowerMark
from tests.support.clock import START

BOOK = book()
UUID = "GPU-6a1b"
OTHER = "GPU-0000"
WELL: Mapping[str, float] = {
    "utilization_percent": 100,
    "temperature_c": 60,
    "temperature_limit_c": 90,
    "sm_clock_mhz": 1900,
    "sm_clock_max_mhz": 2000,
    "power_limit_w": 450,
    "power_default_w": 450,
    "pci_gen_max": 4,
    "pci_gen_current": 4,
    "pci_width_max": 16,
    "pci_width_current": 16,
    "ecc_current": 1,
    "ecc_pending": 1,
    "ecc_volatile_corrected": 0,
    "ecc_volatile_uncorrected": 0,
    "ecc_aggregate_uncorrected": 0,
    "sram_threshold_exceeded": 0,
    "rows_corrected": 0,
    "rows_uncorrected": 0,
    "rows_pending": 0,
    "rows_failed": 0,
    "retired_pages": 0,
    "retired_pages_pending": 0,
    "clock_reasons": 0,
    "power_slowed_s": 0,
    "thermal_slowed_s": 0,
    "energy_mj": 0,
    "pcie_replays": 0,
    "nvlinks_count": 4,
    "nvlinks_up": 4,
    "nvlink_crc": 0,
    "nvlink_replays": 0,
    "nvlink_recoveries": 0,
    "fabric_state": 3,
    "fabric_status": 0,
    "fabric_health": 0,
    "persistence_mode": 1,
    "mig_current": 0,
    "mig_pending": 0,
    "recovery_action": 0,
    "memory_c": 60,
    "memory_limit_c": 95,
}


def sample(index: int = 0, uuid: str | None = UUID, /, **facts: float) -> GpuSample:
    return GpuSample(index, uuid, "RTX 4090", f"0000:{index + 1:02x}:00.0", {**WELL, **facts})


def broken(index: int = 0, uuid: str | None = UUID, /, **errors: str) -> GpuSample:
    """A sample that lacks the fields of `errors`, and what is told with them."""
    facts = {name: value for name, value in WELL.items() if not {name, name.rpartition("_")[0]} & errors.keys()}
    return GpuSample(index, uuid, "RTX 4090", f"0000:{index + 1:02x}:00.0", facts, errors)


def reading(
    *gpus: GpuSample,
    at: datetime = START,
    boot_id: str = "boot-1",
    state: NvmlState = NvmlState.OK,
    reason: str = "",
    error: str = "",
    uncounted: str = "",
    on_bus: tuple[BusGpu, ...] = (),
) -> GpuReading:
    return GpuReading(at, boot_id, state, reason, error, uncounted, gpus, on_bus)


class Watched:
    """A machine that is read each minute."""

    def __init__(self, *standing: Condition) -> None:
        self.judge = Judge(BOOK, standing)
        self.known: tuple[KnownGpu, ...] = ()
        self.minutes = 0
        self.found: list[Condition] = []
        self.set_here: dict[str, PowerMark] = {}

    def look(self, made: GpuReading) -> set[str]:
        """Of a machine whose power policy holds `set_here`."""
        made = replace(made, read_at=START + timedelta(minutes=self.minutes))
        self.minutes += 1
        self.known = known_after(made, self.known, BOOK)
        self.found = self.judge.judge(made, self.known, self.set_here)
        return {one.problem.code for one in self.found}

    def see(self, *gpus: GpuSample, times: int = 1, **more: Any) -> set[str]:
        for _ in range(times):
            codes = self.look(reading(*gpus, **more))
        return codes

    def told(self, code: str) -> Condition:
        (found,) = [one for one in self.found if one.problem.code == code]
        return found
