"""The door to prometheus-client: samples in, the text of a scrape out.

The library takes memory that the idle daemon has no use for: this module is imported by the first scrape, see `text`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample as Line

from kaalia.api.metrics.metric import Kind, Metric, Sample

_SUFFIXES = {Kind.GAUGE: "", Kind.COUNTER: "_total", Kind.INFO: "_info"}
"""Which the library adds to the name of a family by itself."""


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
    """The library adds each sample by a call of its own; all at once takes half the time, and there are a thousand."""
    family = Family(metric.name.removesuffix(_SUFFIXES[metric.kind]), metric.help, metric.kind)
    names = metric.labels
    family.samples = [Line(metric.name, dict(zip(names, one.labels, strict=True)), one.value) for one in samples]
    return family
