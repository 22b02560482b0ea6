"""The full report: each field as value, unit, method and time; a measured one with its duration and spread as well.

What is absent is null and has its `reason`. The shape is wire/report_schema.py's, the fields are report_fields.py's.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaalia.model.inventory import Inventory
from kaalia.model.machine import Gpu, MachineReport, Missing
from kaalia.model.measurement import Measurement
from kaalia.model.speed import Figure
from kaalia.wire import facts, gpu_figures
from kaalia.wire.gpu_figures import Derived
from kaalia.wire.report_fields import GPUS, LISTS, SECTIONS, Field

SCHEMA = 1
"""Grows when a field changes its meaning or goes; new fields leave it as it is."""

Told = dict[str, Any]
"""One field of the document."""


@dataclass(frozen=True, slots=True)
class Value:
    """`at`, `method`: None: those of the section and the field."""

    value: Any
    at: datetime | None = None
    method: str | None = None
    duration_s: float | None = None
    spread: float | None = None
    reason: str | None = None


Get = Callable[[Field], Value]


def encode(
    report: MachineReport, inventory: Inventory | None, measurements: Sequence[Measurement] = ()
) -> dict[str, Any]:
    """The document of `kaalia report --json`. Times are ISO 8601 in UTC."""
    writer = _Writer(report, inventory, measurements)
    once = {name: writer.section(name, SECTIONS[name], writer.source(name)) for name in SECTIONS}
    return {
        "schema": SCHEMA,
        "collected_at": report.collected_at.isoformat(),
        "inventory_read_at": inventory.read_at.isoformat() if inventory else None,
        "agent_version": report.agent_version,
        **once,
        **{name: list(writer.listed(name, LISTS[name])) for name in LISTS},
        "missing": [dataclasses.asdict(one) for one in _missing(report, inventory)],
    }


class _Writer:
    def __init__(self, report: MachineReport, inventory: Inventory | None, measurements: Sequence[Measurement]) -> None:
        self._report = report
        self._inventory = inventory
        self._measured = {(one.name, one.subject): one for one in measurements}
        # The report is newer: what it says of a field wins.
        self._reasons = {one.field: one.reason for one in reversed(_missing(report, inventory))}
        self._offer = {
            **facts.encode(report),
            "gpu_total_ram": sum(gpu.vram_mb for gpu in report.gpus),
            "disk_space": facts.disk_space_gb(report),
        }

    def section(self, name: str, fields: Iterable[Field], get: Get, path: str | None = None) -> dict[str, Told]:
        return {field.name: self._told(field, get(field), path or name) for field in fields}

    def source(self, name: str) -> Get:
        """Where the fields of a section that is there once come from."""
        report, found = self._report, self._inventory
        objects: Mapping[str, tuple[object, ...]] = {
            "cpu": (report.cpu, found and found.cpu),
            "memory": (report.memory, found and found.memory),
            "iommu": (found and found.iommu,),
            "software": (found and found.software,),
        }
        if name == "benchmarks":
            return lambda field: self._measurement(field, "")
        if name == "offer":
            return lambda field: Value(self._offer.get(field.name))
        if name == "network":
            return _network(report)
        return self._of(*objects.get(name, (getattr(report, name, None),)))

    def listed(self, name: str, fields: tuple[Field, ...]) -> Iterable[dict[str, Told]]:
        if name == "gpus":
            parts = {one.uuid: one for one in self._inventory.gpus} if self._inventory else {}
            for gpu in self._report.gpus:
                get = self._gpu(gpu, self._of(gpu, parts.get(gpu.uuid)))
                yield self.section(name, GPUS, get, f"gpus.{gpu.index}")
            return
        for entry in getattr(self._inventory, name, ()):
            key = f"{entry.first}-{entry.second}" if name == "gpu_pairs" else entry.name
            yield self.section(name, fields, self._of(entry), f"{name}.{key}")

    def _of(self, *objects: object) -> Get:
        """The first of them that knows a field; what only the inventory knows is as old as it is."""
        read_at = self._inventory.read_at if self._inventory else None

        def get(field: Field) -> Value:
            for thing in objects:
                if (value := getattr(thing, field.name, None)) is not None and value != ():
                    is_new = thing is objects[0] and type(thing).__module__ == Gpu.__module__
                    return Value(_plain(value), None if is_new else read_at)
            return Value(None)

        return get

    def _gpu(self, gpu: Gpu, otherwise: Get) -> Get:
        name = facts.gpu_name(gpu.name)
        derived: Mapping[str, Callable[[], Derived | None]] = {
            "fp32_tflops": lambda: gpu_figures.fp32_tflops(gpu, name),
            "memory_gbps": lambda: gpu_figures.memory_gbps(gpu, name),
            "nvlink_gbps": lambda: gpu_figures.nvlink_gbps(gpu),
            "dlperf": lambda: gpu_figures.dlperf(gpu, name),
        }

        def get(field: Field) -> Value:
            if field.name in derived:
                found = derived[field.name]()
                return Value(found.value, method=found.method) if found else Value(None)
            if field.name == "compute_capability" and gpu.compute_capability:
                return Value(".".join(map(str, gpu.compute_capability)))
            known = otherwise(field)
            return known if known.value is not None else self._measurement(field, gpu.uuid)

        return get

    def _measurement(self, field: Field, subject: str) -> Value:
        found = self._measured.get((field.name, subject))
        if found is None:
            return Value(None)
        method = f"{field.method}; gently, beside tenants" if found.gentle else found.method or field.method
        reason = found.reason or None
        return Value(found.value, found.measured_at, method, found.duration_s, found.spread, reason)

    def _told(self, field: Field, found: Value, path: str) -> Told:
        told: Told = {
            "value": found.value,
            "unit": field.unit,
            "method": found.method or field.method,
            "at": (found.at or self._report.collected_at).isoformat(),
        }
        if found.value is None:
            told["reason"] = found.reason or self._reason(f"{path}.{field.name}") or field.absent
        if found.duration_s is not None:
            told["duration_s"] = round(found.duration_s, 3)
        if found.spread is not None:
            told["spread"] = round(found.spread, 4)
        return told

    def _reason(self, path: str) -> str | None:
        """Of the field, else of the part that it belongs to."""
        while path:
            if (reason := self._reasons.get(path)) is not None:
                return reason
            path = path.rpartition(".")[0]
        return None


def _missing(report: MachineReport, inventory: Inventory | None) -> list[Missing]:
    return [*report.missing, *(inventory.missing if inventory else ())]


def _network(report: MachineReport) -> Get:
    network = report.network
    ports, proven, speed = network.port_range, network.proven, network.speed
    told: dict[str, Value] = {
        "public_ip": Value(network.public_ip),
        "local_ips": Value(list(network.local_ips)),
        "port_first": Value(ports.first),
        "port_last": Value(ports.last),
    }
    if proven is not None:
        told["proven_tcp"] = Value(proven.tcp, proven.probed_at)
        told["proven_udp"] = Value(proven.udp, proven.probed_at)
    if speed is not None:
        for name, figure in (("down_mbps", speed.down), ("up_mbps", speed.up)):
            told[name] = _speed(figure, speed.measured_at, f"{speed.method}, with {speed.peer}")
    return lambda field: told.get(field.name, Value(None))


def _speed(figure: Figure, at: datetime, method: str) -> Value:
    return Value(figure.mbps, at, method, figure.duration_s, figure.spread)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value) if isinstance(value, str) else value
