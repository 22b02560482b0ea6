"""Logging: one line an event, with the contract and machine it is about; text for people, JSON lines for journald.

The formatter masks what looks like a secret. That is defence in depth: code does not log secrets in the first place.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

from kaalia.clock import from_epoch

MASK = "***"

_CONTRACT_ID: ContextVar[int | None] = ContextVar("contract_id", default=None)
_MACHINE_ID: ContextVar[int | None] = ContextVar("machine_id", default=None)

# No pattern begins with a repeat: what is logged may be long, and each must be done in linear time.
_SENSITIVE = r"(?:(?:api[_-]?key|password|passwd|secret|token|credential)s?|authorization|private[_-]?key)"
_PATTERNS = (
    # name = value, name: value, "name": "value" and -e NAME=value; an authorization value may have two words.
    (
        re.compile(rf"""(?i)({_SENSITIVE}["']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?("[^"]*"|'[^']*'|[^\s,;&"'}}\])]+)"""),
        rf"\g<1>{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\g<1> {MASK}"),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), rf"\g<1>{MASK}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
)


def redact(text: str) -> str:
    """The text with the values of secret-looking names masked."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def about(*, contract_id: int | None = None, machine_id: int | None = None) -> Iterator[None]:
    """Lines logged inside, also by tasks started inside, name the contract and the machine."""
    contract = _CONTRACT_ID.set(_CONTRACT_ID.get() if contract_id is None else contract_id)
    machine = _MACHINE_ID.set(_MACHINE_ID.get() if machine_id is None else machine_id)
    try:
        yield
    finally:
        _MACHINE_ID.reset(machine)
        _CONTRACT_ID.reset(contract)


def _context() -> dict[str, int]:
    pairs = {"contract_id": _CONTRACT_ID.get(), "machine_id": _MACHINE_ID.get()}
    return {name: value for name, value in pairs.items() if value is not None}


class TextFormatter(logging.Formatter):
    """`2026-11-21 02:30:17.123 INFO    sync.service contract_id=51: message`."""

    def format(self, record: logging.LogRecord) -> str:
        at = from_epoch(record.created).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        ids = "".join(f" {name}={value}" for name, value in _context().items())
        name = record.name.removeprefix("kaalia.")
        lines = [f"{at} {record.levelname:<7} {name}{ids}: {record.getMessage()}", *_trace(self, record)]
        return redact("\n".join(lines))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": from_epoch(record.created).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **_context(),
        }
        if trace := _trace(self, record):
            line["error"] = redact("\n".join(trace))
        return json.dumps(line, ensure_ascii=False)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    trace = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return trace + ([formatter.formatStack(record.stack_info)] if record.stack_info else [])


def setup(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send everything to one stream (stderr), once: calling again replaces the earlier set-up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The HTTP libraries tell of each request; that is noise at info.
    for noisy in ("aiohttp.access", "urllib3", "docker", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
