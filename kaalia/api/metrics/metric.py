"""What a metric is: its name, what it means, its labels. No library: who only reads definitions needs none."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    """Only grows, but for a restart; ends in `_total`."""
    INFO = "info"
    """Always 1: its labels are the news. Ends in `_info`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` as it is exposed. `is_tenants`: what a tenant may see of his own GPUs and contract."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    is_tenants: bool = False


class Sample(NamedTuple):
    """One value. `labels`: as many as the metric names, in its order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


def gauge(name: str, text: str, *labels: str, is_tenants: bool = False) -> Metric:
    return Metric(name, Kind.GAUGE, text, labels, is_tenants)


def counter(name: str, text: str, *labels: str, is_tenants: bool = False) -> Metric:
    return Metric(name, Kind.COUNTER, text, labels, is_tenants)


def info(name: str, text: str, *labels: str, is_tenants: bool = False) -> Metric:
    return Metric(name, Kind.INFO, text, labels, is_tenants)
