"""The JSON schema (draft 2020-12) of the full report, made of report_fields.py; docs/report.schema.json is its text."""

from typing import Any

from kaalia.wire.report import SCHEMA
from kaalia.wire.report_fields import LISTS, SAYS, SECTIONS, Field

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "moment": {"type": "string", "format": "date-time"},
    "texts": {"type": "array", "items": {"type": "string"}},
}


def schema() -> dict[str, Any]:
    moment = _TYPES["moment"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kaalia report --json",
        "description": "What a machine is. Each field has value, unit, method and time; a null value has its reason.",
        **_object(
            {
                "schema": {"const": SCHEMA},
                "collected_at": moment,
                "inventory_read_at": {"anyOf": [moment, {"type": "null"}]},
                "agent_version": {"type": "string"},
                **{name: _section(name, fields) for name, fields in SECTIONS.items()},
                **{name: {"type": "array", "items": _section(name, fields)} for name, fields in LISTS.items()},
                "missing": {
                    "type": "array",
                    "description": "Everything that could not be read, and why.",
                    "items": _object({"field": {"type": "string"}, "reason": {"type": "string", "minLength": 1}}),
                },
            }
        ),
        "$defs": {"field": _field_rules()},
    }


def _section(name: str, fields: tuple[Field, ...]) -> dict[str, Any]:
    return {"description": SAYS[name], **_object({field.name: _field(field) for field in fields})}


def _field(field: Field) -> dict[str, Any]:
    return {
        "$ref": "#/$defs/field",
        "properties": {"value": {"anyOf": [_type(field), {"type": "null"}]}, "unit": {"const": field.unit}},
    }


def _type(field: Field) -> dict[str, Any]:
    if field.kind != "records":
        return _TYPES[field.kind]
    columns = {name: {"anyOf": [_TYPES[kind], {"type": "null"}]} for name, kind in field.columns}
    return {"type": "array", "items": _object(columns)}


def _field_rules() -> dict[str, Any]:
    """What all fields have. A reason stands where the value is null, and only there."""
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "required": ["value", "unit", "method", "at"],
        "properties": {
            "value": {},
            "unit": text,
            "method": text,
            "at": _TYPES["moment"],
            "reason": text,
            "duration_s": {"type": "number", "minimum": 0},
            "spread": {"type": "number", "minimum": 0, "description": "Standard deviation as a share of the mean."},
        },
        "additionalProperties": False,
        "if": {"properties": {"value": {"type": "null"}}},
        "then": {"required": ["reason"]},
        "else": {"not": {"required": ["reason"]}},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
