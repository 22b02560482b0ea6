"""The alerts that are offered name what exists, and promtool takes them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.metrics.test_dashboard import wrong
from tests.support.dashboard import Question
from tests.support.prometheus import program

PATH = Path(__file__).parents[3] / "docs" / "prometheus" / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(PATH.read_text())["groups"][0]["rules"]
_NAMED = re.compile(r"\$labels\.(\w+)")


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: rule["alert"])
def test_metrics_and_labels_exist(rule: dict[str, Any]) -> None:
    shown = frozenset(_NAMED.findall(rule["annotations"]["summary"]))

    assert not wrong(Question(rule["alert"], rule["expr"], shown))


def test_promtool_takes_them() -> None:
    command = [program("promtool"), "check", "rules", "--lint-fatal", str(PATH)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
