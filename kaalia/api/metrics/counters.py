"""Metrics of how each GPU is, by its UUID: the driver's counters of errors and of times in which it slowed down.

They are read with the report. What a model or driver does not count is absent.
"""

from collections.abc import Callable, Iterator

from kaalia.api.metrics.metric import Metric, Sample, counter, gauge
from kaalia.api.metrics.reading import Reading
from kaalia.model.gpu_health import NvmlState

STATE = gauge("kaalia_driver_state", "1 for how the newest reading of the NVIDIA driver went.", "state")


def _metric(make: Callable[..., Metric], name: str, text: str) -> Metric:
    return make(f"kaalia_gpu_{name}", text, "gpu", is_tenants=True)


FACTS: dict[str, Metric] = {
    "ecc_volatile_uncorrected": _metric(
        counter,
        "ecc_uncorrected_volatile_total",
        "Errors of memory that were not corrected, since the driver was loaded.",
    ),
    "ecc_aggregate_uncorrected": _metric(counter, "ecc_uncorrected_total", "The same, in the life of the GPU."),
    "rows_corrected": _metric(gauge, "rows_remapped_corrected", "Rows of memory remapped after corrected errors."),
    "rows_uncorrected": _metric(
        gauge, "rows_remapped_uncorrected", "Rows remapped after errors that were not corrected."
    ),
    "rows_pending": _metric(gauge, "row_remap_pending", "1 when a row is remapped at the next reset."),
    "rows_failed": _metric(gauge, "row_remap_failed", "1 when a row could not be remapped."),
    "retired_pages": _metric(gauge, "retired_pages", "Pages of memory that are used no more."),
    "power_slowed_s": _metric(counter, "power_slowed_seconds_total", "Time in which its power limit slowed it down."),
    "thermal_slowed_s": _metric(counter, "thermal_slowed_seconds_total", "Time in which heat slowed it down."),
    "pcie_replays": _metric(counter, "pcie_replays_total", "Packets of the PCIe link that had to be sent again."),
    "nvlinks_count": _metric(gauge, "nvlinks", "NVLinks that it has."),
    "nvlinks_up": _metric(gauge, "nvlinks_up", "NVLinks that are up."),
    "nvlink_crc": _metric(counter, "nvlink_crc_errors_total", "Damaged packets of its NVLinks."),
    "nvlink_replays": _metric(counter, "nvlink_replays_total", "Packets of its NVLinks that had to be sent again."),
    "nvlink_recoveries": _metric(counter, "nvlink_recoveries_total", "How often its NVLinks had to be set up anew."),
    "energy_mj": counter("kaalia_gpu_energy_joules_total", "Energy that it used since the driver was loaded.", "gpu"),
    "memory_c": _metric(gauge, "memory_temperature_celsius", "Temperature of its memory."),
}
"""By the fact's name in a reading."""

_UNITS = {"energy_mj": 0.001}
"""Of a fact that is told in another unit."""

METRICS = (STATE, *FACTS.values())


def samples(reading: Reading) -> Iterator[Sample]:
    found = reading.driver
    if found is None:
        return
    for state in NvmlState:
        yield Sample(STATE, (state,), float(found.state is state))
    for gpu in found.gpus:
        for fact, metric in FACTS.items():
            if gpu.uuid is not None and (value := gpu.facts.get(fact)) is not None:
                yield Sample(metric, (gpu.uuid,), value * _UNITS.get(fact, 1))
