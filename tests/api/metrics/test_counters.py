"""The counters that metrics name are those that the probe of the driver reads."""

from kaalia.api.metrics import counters
from kaalia.host import nvml_probe


def test_each_fact_is_one_of_the_probe() -> None:
    unknown = [
        fact
        for fact in counters.FACTS
        if fact not in nvml_probe.COUNTERS and not any(fact.startswith(f"{name}_") for name in nvml_probe.COUNTERS)
    ]

    assert not unknown
