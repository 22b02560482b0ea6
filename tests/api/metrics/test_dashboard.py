"""The dashboard asks only for what exists, and Grafana can load it."""

import itertools

import pytest

from kaalia.api.metrics.catalogue import GROUPS
from tests.support import dashboard
from tests.support.dashboard import Question

KNOWN = {metric.name: metric for _, metrics in GROUPS for metric in metrics}
BY_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""
BOARD = dashboard.load()
QUESTIONS = list(dashboard.questions(BOARD))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def wrong(question: Question) -> list[str]:
    """What it names that there is not."""
    names = [name for name, _ in question.selected]
    unknown = [name for name in names if name not in KNOWN]
    if unknown or not names:
        return unknown or ["it names no metric"]
    everywhere = BY_PROMETHEUS.union(*(KNOWN[name].labels for name in names))
    labels = [label for name, used in question.selected for label in used - BY_PROMETHEUS - set(KNOWN[name].labels)]
    return [*labels, *((question.grouped | question.shown) - everywhere)]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.panel)
def test_metrics_and_labels_exist(question: Question) -> None:
    assert not wrong(question), question.expression


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("kaalia_gpu_power_megawatts", ()),
        ('kaalia_gpu_power_watts{contract="51"}', ()),
        ("sum by (contract) (kaalia_gpu_power_watts)", ()),
        ("kaalia_gpu_power_watts * on (gpu) group_left (uuid) kaalia_gpu_info", ()),
        ("kaalia_gpu_power_watts", ("name",)),
        ("time()", ()),
    ],
)
def test_what_does_not_exist_is_found(expression: str, shown: tuple[str, ...]) -> None:
    assert wrong(Question("seeded", expression, frozenset(shown)))


def test_each_part_has_its_row() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]

    assert rows == ["Machine", "GPUs", "Contracts", "Conditions", "Availability", "Daemon"]


def test_panels_are_apart_and_on_the_page() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]
    for one, other in itertools.combinations(BOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one["title"], other["title"])


def test_no_installation_of_ours_is_named() -> None:
    """Every panel asks the Prometheus that is chosen on the page, of the machines that are chosen there."""
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "instance"]
    for panel in PANELS:
        for target in panel["targets"]:
            assert panel["datasource"] == target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            selectors = target["expr"].count('instance=~"$instance"')
            assert selectors == len(Question("", target["expr"], frozenset()).selected), target["expr"]
