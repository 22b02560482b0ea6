import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.query import OPERATORS, check, driver_number, matches, sort
from kaalia.errors import ContractError

ROW: dict[str, Any] = {
    "id": 501,
    "machine_id": 77,
    "gpu_name": "RTX 4090",
    "num_gpus": 2,
    "gpu_ram": 24564,
    "dph_total": Decimal("0.4"),
    "cuda_max_good": 12.8,
    "driver_version": "550.54.15",
    "geolocation": "Frankfurt, DE",
    "duration": 864000.0,
    "verified": False,
    "rentable": True,
    "has_avx": 1,
    "external": None,
    "ubuntu_version": "22.04",
}

cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.decimals()
values = cells | st.lists(cells, max_size=3)


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("num_gpus", "gte", "1"),
        ("num_gpus", "eq", "2"),
        ("num_gpus", "lt", 3),
        ("num_gpus", "in", ["1", "2"]),
        ("num_gpus", "notin", ["1", "3"]),
        ("num_gpus", "nin", []),
        ("num_gpus", "not in", ["8"]),
        ("gpu_ram", "gt", 20000.0),
        ("dph_total", "lte", "0.4"),
        ("dph_total", "eq", 0.4),
        ("dph_total", "lt", Decimal("0.5")),
        ("cuda_max_good", "gte", "12.1"),
        ("gpu_name", "eq", "RTX 4090"),
        ("gpu_name", "eq", "rtx_4090"),
        ("gpu_name", "in", ["H100", "RTX_4090"]),
        ("gpu_name", "neq", "RTX 3090"),
        ("driver_version", "gte", 535086005),
        ("driver_version", "gte", "535.86.05"),
        ("driver_version", "lt", "550.100.1"),
        ("driver_version", "eq", "550.54.15"),
        ("driver_version", "gte", "550"),
        ("driver_version", "gte", "535086005"),
        ("driver_version", "in", ["550.54.15"]),
        ("geolocation", "in", ["US", "DE"]),
        ("geolocation", "eq", "de"),
        ("geolocation", "eq", "Frankfurt, DE"),
        ("geolocation", "notin", ["US", "CA"]),
        ("duration", "gt", 259200.0),
        ("verified", "eq", False),
        ("verified", "eq", "any"),
        ("verified", "eq", "Any"),
        ("verified", "neq", True),
        ("verified", "eq", "false"),
        ("rentable", "eq", True),
        ("rentable", "eq", "TRUE"),
        ("has_avx", "eq", True),
        ("has_avx", "eq", "true"),
        ("has_avx", "gte", "1"),
        ("external", "eq", None),
        ("external", "neq", True),
        ("external", "notin", [True]),
        ("external", "in", [None, True]),
        ("ubuntu_version", "gte", "20.04"),
        ("ubuntu_version", "gt", "9.10"),
        ("ubuntu_version", "eq", "22.04"),
        ("no_such_field", "eq", "x"),
        ("machine_id", "eq", "77"),
        ("num_gpus", "neq", "many"),
    ],
)
def test_row_matches(field: str, op: str, value: object) -> None:
    assert matches(ROW, {field: {op: value}})


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("num_gpus", "gt", "2"),
        ("num_gpus", "eq", "many"),
        ("num_gpus", "gt", "many"),
        ("num_gpus", "notin", ["2"]),
        ("num_gpus", "in", []),
        ("gpu_name", "eq", "RTX 4090 D"),
        ("driver_version", "gte", 560000000),
        ("driver_version", "gt", "550.100.1"),
        ("geolocation", "in", ["US", "CA"]),
        ("geolocation", "eq", "E"),
        ("geolocation", "notin", ["DE"]),
        ("verified", "eq", True),
        ("verified", "eq", "maybe"),
        ("external", "eq", False),
        ("external", "neq", None),
        ("external", "gt", 0),
        ("external", "lte", 0),
        ("external", "in", [True, False]),
        ("external", "notin", [None]),
        ("num_gpus", "eq", None),
        ("num_gpus", "eq", 10**400),
        ("ubuntu_version", "gt", "100.04"),
    ],
)
def test_row_does_not_match(field: str, op: str, value: object) -> None:
    assert not matches(ROW, {field: {op: value}})


def test_filters_and_operators_are_anded() -> None:
    both = {"num_gpus": {"gte": "1", "lte": "2"}, "gpu_name": {"eq": "RTX_4090"}}

    assert matches(ROW, both)
    assert not matches(ROW, {**both, "num_gpus": {"gte": "1", "lte": "1"}})
    assert not matches(ROW, {**both, "gpu_name": {"eq": "H100"}})


def test_the_recorded_search_is_read() -> None:
    recorded = {
        "external": {"eq": None},
        "rentable": {"eq": True},
        "gpu_name": {"eq": "RTX 4090"},
        "num_gpus": {"gte": "1"},
        "gpu_ram": {"gt": 20000.0},
        "driver_version": {"gte": 535086005},
        "geolocation": {"in": ["US", "CA", "DE"]},
        "duration": {"gt": 259200.0},
        "cuda_max_good": {"gte": "12.1"},
        "order": [["dph_total", "asc"], ["num_gpus", "desc"]],
        "type": "bid",
        "limit": 3,
        "allocated_storage": 50.0,
    }

    assert matches(ROW, recorded)


def test_the_rows_own_driver_number_counts() -> None:
    assert matches({"driver_version": "odd", "driver_vers": 550054015}, {"driver_version": {"gte": "535.86.05"}})


@pytest.mark.parametrize(
    "filters",
    [
        {"num_gpus": {"~": 1}},
        {"num_gpus": {"": 1}},
        {"num_gpus": 1},
        {"num_gpus": [1]},
        {"num_gpus": {"in": "1"}},
        {"num_gpus": {"gte": None}},
        {"num_gpus": {"gte": [1]}},
    ],
)
def test_bad_filters_are_refused_by_name(filters: dict[str, Any]) -> None:
    with pytest.raises(ContractError) as caught:
        check(filters)

    assert caught.value.code == "filter_invalid"
    assert "'num_gpus'" in caught.value.problem.message
    assert caught.value.problem.remedy
    with pytest.raises(ContractError):
        matches({}, filters)


@pytest.mark.parametrize("order", [["dph_total"], [["dph_total"]], [["dph_total", "up"]], [[1, "asc"]], ["ab"]])
def test_bad_order_is_refused(order: Any) -> None:
    with pytest.raises(ContractError, match="cannot order by"):
        sort([ROW], order)


def test_sort_by_two_fields_with_unknown_last() -> None:
    rows: list[dict[str, Any]] = [{"n": 1, "p": 3}, {"n": 2, "p": None}, {"n": 3, "p": 1}, {"n": 4, "p": 3}, {"n": 5}]

    assert [row["n"] for row in sort(rows, [["p", "desc"], ["n", "desc"]])] == [4, 1, 3, 5, 2]
    assert [row["n"] for row in sort(rows, [["p", "asc"]])] == [3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("version", "number"),
    [("535.86.05", 535086005), ("550.54", 550054000), ("6.8.5-1", None), ("", None), ("1.2.3.4", None), ("²", None)],
)
def test_driver_number(version: str, number: int | None) -> None:
    assert driver_number(version) == number


@given(cells, st.sampled_from(["eq", "in", "gt", "lt", "gte", "lte"]), cells)
def test_each_operator_and_its_opposite(cell: Any, op: str, value: Any) -> None:
    row = {"f": cell}
    if value is None and op not in ("eq", "in"):
        return
    asked = [value] if op == "in" else value
    opposite = {"eq": "neq", "in": "notin", "gt": "lte", "lt": "gte", "gte": "lt", "lte": "gt"}[op]

    holds, other = matches(row, {"f": {op: asked}}), matches(row, {"f": {opposite: asked}})

    if op in ("eq", "in") and str(value).lower() != "any":
        assert holds is not other
    else:
        assert not (holds and other)


@given(st.dictionaries(st.sampled_from("abc"), cells), st.sampled_from("abc"), st.sampled_from(OPERATORS), values)
def test_any_filter_is_answered_or_refused(row: dict[str, Any], field: str, op: str, value: Any) -> None:
    try:
        answer = matches(row, {field: {op: value}})
    except ContractError as error:
        assert error.code == "filter_invalid"  # noqa: PT017 a refusal is one of two right answers
    else:
        assert answer in (True, False)
        assert field in row or answer
        assert not (row.get(field, 0) is None and op in ("gt", "gte", "lt", "lte") and answer)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["eq", "neq", "gt", "gte", "lt", "lte"]))
def test_a_number_and_its_text_are_the_same_filter(cell: int, value: int, op: str) -> None:
    assert matches({"f": cell}, {"f": {op: value}}) == matches({"f": cell}, {"f": {op: str(value)}})


@given(st.lists(st.fixed_dictionaries({"a": cells, "b": cells}), max_size=12), st.sampled_from(["asc", "desc"]))
def test_sort_keeps_all_rows_puts_unknown_last_and_is_stable(rows: list[dict[str, Any]], direction: str) -> None:
    numbered = [{**row, "n": place} for place, row in enumerate(rows)]

    result = sort(numbered, [["a", direction]])

    assert sorted(row["n"] for row in result) == list(range(len(rows)))
    unknown = [row["a"] is None for row in result if not _is_nan(row["a"])]
    assert unknown == sorted(unknown)
    same = [row["n"] for row in sort([{"a": 1, "n": place} for place in range(5)], [["a", direction]])]
    assert same == list(range(5))
    assert sort(result, [["a", direction]]) == result or any(_is_nan(row["a"]) for row in rows)


def _is_nan(cell: object) -> bool:
    return math.isnan(cell) if isinstance(cell, float) else isinstance(cell, Decimal) and cell.is_nan()
