"""The answer of nvml_inventory.py, checked: what it lacks becomes `missing`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.model.inventory import GpuPair, GpuParts
from kaalia.model.machine import Missing

_GPU_FIELDS = frozenset(GpuParts.__dataclass_fields__)
_PAIR_FIELDS = frozenset(GpuPair.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class PartsReading:
    """`missing` names fields as `gpus.0.vbios_version` and `gpu_pairs.0-1.path`, or `gpus` as a whole."""

    gpus: tuple[GpuParts, ...] = ()
    pairs: tuple[GpuPair, ...] = ()
    missing: tuple[Missing, ...] = ()


def failed(reason: str) -> PartsReading:
    return PartsReading(missing=(Missing("gpus", reason), Missing("gpu_pairs", reason)))


def parse(line: str) -> PartsReading:
    try:
        answer: dict[str, Any] = json.loads(line)
        if reason := answer.get("reason"):
            return failed(str(reason))
        entries, pairs = answer["gpus"], answer["pairs"]
        known = [entry for entry in entries if "uuid" in entry]
        return PartsReading(
            tuple(GpuParts(**_known(entry, _GPU_FIELDS)) for entry in known),
            tuple(GpuPair(**_known(entry, _PAIR_FIELDS)) for entry in pairs),
            (*_missing(entries, lambda one: f"gpus.{one['index']}"), *_missing(pairs, _pair_name)),
        )
    except (ValueError, KeyError, TypeError) as error:
        return failed(f"cannot understand the probe's answer {line[:200]!r}: {error!r}")


def _known(entry: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name in fields}


def _pair_name(pair: Mapping[str, Any]) -> str:
    return f"gpu_pairs.{pair['first']}-{pair['second']}"


def _missing(entries: Iterable[Mapping[str, Any]], name: Any) -> Iterable[Missing]:
    for entry in entries:
        for field, reason in entry["errors"].items():
            yield Missing(f"{name(entry)}.{field}", reason)
