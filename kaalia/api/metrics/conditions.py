"""Metrics of what is wrong now, and of the faults that the kernel told since the boot."""

from collections import Counter
from collections.abc import Iterator

from kaalia.api.metrics.metric import Sample, counter, gauge
from kaalia.api.metrics.reading import Reading
from kaalia.contracts import fitness
from kaalia.contracts.symptoms import causes
from kaalia.model.health import HOST, OpenCondition, Severity

CODES_MAX = 100
"""More different codes are counted together: what outside text takes part in has a bound."""
OTHER = "other"

OPEN = gauge(
    "kaalia_condition",
    "Conditions of this kind that are open: what is wrong now. `scope` is host, gpu, contract or other.",
    *("condition", "severity", "scope", "gpu", "contract"),
    is_tenants=True,
)
SINCE = gauge(
    "kaalia_condition_since_timestamp_seconds",
    "Since when, the oldest of them, since the epoch.",
    *("condition", "severity", "scope", "gpu", "contract"),
    is_tenants=True,
)
COUNT = gauge("kaalia_conditions", "Conditions that are open, by severity; 0 when there is none.", "severity")
ENDED = counter("kaalia_conditions_ended_total", "Conditions that were open and are over.")
FIT = gauge("kaalia_machine_fit", "0 while a condition of the machine keeps all new rentals away; what runs goes on.")
GPU_FIT = gauge("kaalia_gpu_fit", "0 while a condition keeps new rentals off this GPU; what runs goes on.", "gpu")
FAULTS = counter("kaalia_kernel_faults_total", "Faults that the kernel told since this boot, by code.", "fault")

METRICS = (OPEN, SINCE, COUNT, ENDED, FIT, GPU_FIT, FAULTS)


def samples(reading: Reading) -> Iterator[Sample]:
    told, found = causes(reading.conditions), dict[tuple[str, ...], list[float]]()
    for one in told:
        found.setdefault(_labels(one), []).append(one.since.timestamp())
    for labels, since in sorted(found.items(), key=_order)[:CODES_MAX]:
        yield Sample(OPEN, labels, len(since))
        yield Sample(SINCE, labels, min(since))
    counts = Counter(one.condition.severity for one in told)
    for severity in Severity:
        yield Sample(COUNT, (severity,), counts[severity])
    yield Sample(ENDED, (), reading.conditions_ended)
    yield from _fitness(reading)
    yield from _faults(reading)


def _order(one: tuple[tuple[str, ...], list[float]]) -> tuple[bool, tuple[str, ...]]:
    """Of too many the warnings are left out."""
    labels, _ = one
    return labels[1] == Severity.WARN, labels


def _labels(one: OpenCondition) -> tuple[str, ...]:
    """Of a folder or somebody's container only that it is one: their names are endless."""
    condition = one.condition
    gpu, contract, scope = "", "", OTHER
    if condition.scope == HOST:
        scope = HOST
    elif condition.scope.startswith("GPU-"):
        scope, gpu = "gpu", condition.scope
    elif (number := condition.scope.removeprefix("C.")).isdecimal():
        scope, contract = "contract", number
    return (condition.problem.code, condition.severity, scope, gpu, contract)


def _fitness(reading: Reading) -> Iterator[Sample]:
    faults = fitness.faults(reading.conditions)
    unfit = fitness.of_gpus(faults)
    yield Sample(FIT, (), float(fitness.of_host(faults) is None))
    for gpu in reading.report.gpus if reading.report else ():
        yield Sample(GPU_FIT, (gpu.uuid,), float(gpu.uuid not in unfit))


def _faults(reading: Reading) -> Iterator[Sample]:
    counts: Counter[str] = Counter()
    for fault in reading.faults:
        counts[fault.code if fault.code in counts or len(counts) < CODES_MAX else OTHER] += fault.count
    for code, count in sorted(counts.items()):
        yield Sample(FAULTS, (code,), count)
