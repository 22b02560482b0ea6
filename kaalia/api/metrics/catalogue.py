"""All metrics that there are, in the order of docs/reference/metrics.md."""

from kaalia.api.metrics import availability, conditions, contracts, counters, daemon, gpus, machine
from kaalia.api.metrics.metric import Metric

GROUPS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("Machine", machine.METRICS),
    ("GPUs", gpus.METRICS),
    ("GPUs: counters of the driver", counters.METRICS),
    ("Contracts and volumes", contracts.METRICS),
    ("Conditions", conditions.METRICS),
    ("Availability", availability.METRICS),
    ("Daemon", daemon.METRICS),
    ("Process", daemon.PROCESS),
)
