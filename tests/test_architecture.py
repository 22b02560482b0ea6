"""The house stays the house: who imports whom, one door per library, pure rules, short files, honest names."""

import pytest

from tests.support import architecture
from tests.support.architecture import MAX_LINES, MAY_IMPORT, RULES, Module, Rule

SEEDS: list[tuple[Rule, str, str]] = [
    (architecture.direction, "kaalia.model.machine", "from kaalia.contracts import offer"),
    (architecture.direction, "kaalia.sync.pull", "from kaalia.reconciler.diff import diff"),
    (architecture.direction, "kaalia.capability.gpu", "import kaalia.health.service"),
    (architecture.direction, "kaalia.marketplace.app", "from kaalia.store.database import Database"),
    (architecture.direction, "kaalia.api.app", "from kaalia import runtime"),
    (architecture.direction, "kaalia.sync.service", "from kaalia.runtime.labels import LABEL"),
    (architecture.direction, "kaalia.contracts.offer", "from kaalia.runtime.base import Share"),
    (architecture.direction, "kaalia.errors", "from kaalia.model import machine"),
    (architecture.direction, "kaalia.novelty.thing", "x = 1"),
    (architecture.doors, "kaalia.capability.gpu", "import pynvml"),
    (architecture.doors, "kaalia.host.nvml", "from pynvml import nvmlInit"),
    (architecture.doors, "kaalia.runtime.container.runtime", "from docker.errors import NotFound"),
    (architecture.doors, "kaalia.store.tasks", "import sqlite3"),
    (architecture.doors, "kaalia.runtime.labels", "import subprocess"),
    (architecture.doors, "kaalia.api.app", "import rich.table"),
    (architecture.doors, "kaalia.store.machine", "import sqlalchemy as sa"),
    (architecture.doors, "kaalia.selftest.service", "asyncio.create_subprocess_exec('true')"),
    (architecture.doors, "kaalia.daemon.run", "import os\nos.system('true')"),
    (architecture.doors, "kaalia.sync.client", "from cryptography.fernet import Fernet"),
    (architecture.purity, "kaalia.contracts.offer", "import asyncio"),
    (architecture.purity, "kaalia.contracts.offer", "from time import monotonic"),
    (architecture.purity, "kaalia.wire.offer", "import random"),
    (architecture.purity, "kaalia.wire.offer", "from kaalia.clock import SystemClock"),
    (architecture.purity, "kaalia.model.health", "from pathlib import Path"),
    (architecture.purity, "kaalia.reconciler.diff", "import logging"),
    (architecture.purity, "kaalia.runtime.container.spec", "import urllib.request"),
    (architecture.purity, "kaalia.contracts.ports", "open('/proc/cpuinfo')"),
    (architecture.purity, "kaalia.contracts.ports", "async def choose() -> None: ..."),
    (architecture.import_form, "kaalia.sync.pull", "from .client import Client"),
    (architecture.import_form, "kaalia.sync.pull", "def pull():\n    import json"),
    (architecture.import_form, "kaalia.api.app", "def build():\n    from kaalia.api.metrics import scrape, text"),
    (architecture.doors, "kaalia.api.metrics.scrape", "import prometheus_client"),
    (architecture.import_form, "kaalia.sync.pull", "try:\n    import uvloop\nexcept ImportError:\n    pass"),
    (architecture.import_form, "kaalia.sync.pull", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1"),
    (architecture.import_form, "kaalia.sync.pull", "import typing\nif typing.TYPE_CHECKING:\n    x = 1"),
    (architecture.import_form, "kaalia.sync.pull", "importlib.import_module(name)"),
    (architecture.length, "kaalia.sync.pull", "x = 1\n" * (MAX_LINES + 1)),
    (architecture.naming, "kaalia.sync.utils", ""),
    (architecture.naming, "kaalia.host.common.gpu", ""),
    (architecture.naming, "kaalia.sync.pull", "class PullManager: ..."),
    (architecture.docstring, "kaalia.sync.pull", "x = 1"),
    (architecture.tasks, "kaalia.sync.pull", "asyncio.create_task(pull())"),
    (architecture.tasks, "kaalia.sync.pull", "asyncio.ensure_future(pull())"),
    (architecture.tasks, "kaalia.sync.pull", "loop.create_task(pull())"),
    (architecture.clocks, "kaalia.sync.pull", "datetime.now(UTC)"),
    (architecture.clocks, "kaalia.sync.pull", "datetime.datetime.utcnow()"),
    (architecture.clocks, "kaalia.sync.pull", "date.today()"),
    (architecture.clocks, "kaalia.sync.pull", "time.time()"),
    (architecture.clocks, "kaalia.sync.pull", "from time import time"),
    (architecture.catching, "kaalia.sync.pull", "try: x()\nexcept Exception: pass"),
    (architecture.catching, "kaalia.sync.pull", "try: x()\nexcept (OSError, BaseException): pass"),
    (architecture.catching, "kaalia.sync.pull", "try: x()\nexcept: pass"),
    (architecture.pruning, "kaalia.runtime.container.engine", "client.prune_containers()"),
    (architecture.pruning, "kaalia.runtime.container.engine", "post('/v1.41/images/prune')"),
]
"""One violation each: a rule that no longer sees its own is no rule."""


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    """Of the package. Read by the tests, not when they are collected: every worker does that."""
    return architecture.read("kaalia")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule, modules: dict[str, Module]) -> None:
    broken = [f"{module.name}: {what}" for module in modules.values() for what in rule(module)]

    assert modules
    assert not broken, "\n".join([rule.__doc__ or "", *broken])


def test_no_modules_import_each_other(modules: dict[str, Module]) -> None:
    rings = architecture.cycles(modules)

    assert not rings, "these import each other: " + "; ".join(" <-> ".join(ring) for ring in rings)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "scripts"])
def test_files_outside_the_package_are_short_and_mock_nothing(folder: str) -> None:
    outside = architecture.read(folder)
    long = [f"{module.name}: {what}" for module in outside.values() for what in architecture.length(module)]
    mocks = {name for name, module in outside.items() for one in architecture.imports(module.tree) if _is_mock(one)}

    assert outside
    assert not long, "\n".join(long)
    assert not mocks, "write a fake that works, in tests/support"


def _is_mock(imported: str) -> bool:
    return imported.split(".")[:2] in (["unittest", "mock"], ["mock"])


@pytest.mark.parametrize(("rule", "name", "source"), SEEDS)
def test_seeded_violation_is_caught(rule: Rule, name: str, source: str) -> None:
    assert list(rule(architecture.parse(name, source)))


def test_every_rule_has_a_seed() -> None:
    assert {rule for rule, _, _ in SEEDS} == set(RULES)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("kaalia.service", '"""x"""\nimport asyncio\nasyncio.create_task(x())\ntry: x()\nexcept Exception: pass'),
        ("kaalia.clock", '"""x"""\nimport time\nfrom datetime import UTC, datetime\ndatetime.now(UTC), time.time()'),
        (
            "kaalia.contracts.offer",
            '"""x"""\nimport urllib.parse\nfrom kaalia.model import machine\nfrom kaalia import units',
        ),
        ("kaalia.sync.pull", '"""x"""\nimport kaalia\nfrom kaalia.store.changes import Topic\nclock.now()'),
        ("kaalia.sync.service", '"""x"""\nfrom kaalia.runtime.base import RegistryLogin'),
        ("kaalia.host.nvml_probe", '"""x"""\nimport pynvml'),
        ("kaalia.store.database", '"""x"""\ntry: x()\nexcept BaseException:\n    y()\n    raise'),
        ("kaalia.cli.output", '"""x"""\nfrom rich.table import Table'),
        ("kaalia.api.metrics.scrape", '"""x"""\ndef load():\n    from kaalia.api.metrics import text'),
    ],
)
def test_the_right_place_is_allowed(name: str, source: str) -> None:
    assert not [what for rule in RULES for what in rule(architecture.parse(name, source))]


def test_seeded_ring_is_caught() -> None:
    sources = {
        "a": "import kaalia.b",
        "b": "from kaalia.c import thing",
        "c": "from kaalia import a",
        "d": "import kaalia.a",
    }
    modules = {f"kaalia.{name}": architecture.parse(f"kaalia.{name}", source) for name, source in sources.items()}

    assert architecture.cycles(modules) == [["kaalia.a", "kaalia.b", "kaalia.c"]]


def test_the_table_itself_has_no_ring() -> None:
    rank: dict[str, int] = {}
    while len(rank) < len(MAY_IMPORT):
        ready = [unit for unit, below in MAY_IMPORT.items() if unit not in rank and below <= rank.keys()]
        assert ready, f"these units wait for each other: {sorted(MAY_IMPORT.keys() - rank.keys())}"
        rank.update(dict.fromkeys(ready, len(rank)))
