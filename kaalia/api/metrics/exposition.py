"""The door to prometheus-client: samples in, the text of a scrape out.

The library takes memory that the idle daemon has no use for: this module is imported by the first scrape, see `text`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from kaalia.api.metrics.metric import Kind, Metric, Sample

_FAMILIES = {Kind.GAUGE: GaugeMetricFamily, Kind.COUNTER: CounterMetricFamily}


class _Samples(Collector):
    """One scrape's values."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        found: dict[str, list[Sample]] = {}
        for sample in self._samples:
            found.setdefault(sample.metric.name, []).append(sample)
        for group in found.values():
            yield _family(group[0].metric, group)


def render(samples: Iterable[Sample], *, with_process: bool) -> bytes:
    """`with_process`: what the kernel says of this process, too. Blocks for some milliseconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples))
    if with_process:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    if metric.kind is Kind.INFO:
        known = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for sample in samples:
            known.add_metric((), dict(zip(metric.labels, sample.labels, strict=True)))
        return known
    kind: type[GaugeMetricFamily | CounterMetricFamily] = _FAMILIES[metric.kind]
    family = kind(metric.name, metric.help, labels=metric.labels)
    for sample in samples:
        family.add_metric(sample.labels, sample.value)
    return family
