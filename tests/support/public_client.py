"""How the public client reads what it is told in a self-test: its own module, loaded from where it is installed."""

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.support.vastai import program

ALARMING = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
"""In a status_msg they end the client's waiting, whatever the state."""
_COMMANDS = "lib/python3*/site-packages/vastai/cli/commands/machines.py"
_MODULE = "lib/python3*/site-packages/vastai/cli/self_test/runtime_diagnostics.py"


def code_of_progress(lines: Sequence[str]) -> list[str]:
    """The failure codes of the ERROR lines in a progress text."""
    return [str(one["code"]) for one in _client().LegacyProgressParser().parse("\n".join(lines))]


def code_of_status(message: str) -> str:
    """The failure code for the status_msg of an instance that did not start."""
    return str(_client().classify_status_msg(message)["code"])


def runtime_codes() -> set[str]:
    """All failure codes that it has a name for, of what happens once it has chosen an offer."""
    return set(_client().RUNTIME_FAILURE_CODES)


def commands_source() -> str:
    """The text of its commands for machines, the self-test among them."""
    [place] = Path(program()).parents[1].glob(_COMMANDS)
    return place.read_text(encoding="utf-8")


@cache
def _client() -> ModuleType:
    # By itself: the package around it takes a second to import, and lives in an environment of its own.
    [place] = Path(program()).parents[1].glob(_MODULE)
    spec = importlib.util.spec_from_file_location("vastai_runtime_diagnostics", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
