import time

import pytest

from kaalia.errors import HostError
from kaalia.host import searching
from kaalia.host.searching import matching_lines

TEXT = "step 1 ok\nwarning: disk\nerror: ünïcode \ud83d\nlast"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(error|warning): ", "warning: disk\nerror: ünïcode ?\n"),
        (r"\d{1,2}", "step 1 ok\n"),
        ("(?i)LAST$", "last\n"),
        ("nothing", ""),
    ],
)
async def test_lines_are_found(pattern: str, expected: str) -> None:
    assert await matching_lines(TEXT, pattern) == expected


async def test_an_expression_without_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SEARCH_S", 0.5)
    began = time.monotonic()

    with pytest.raises(HostError) as refusal:
        await matching_lines("a" * 60 + "b\n", "(a+)+$")

    assert refusal.value.code == "filter_slow"
    assert time.monotonic() - began < 3


async def test_an_expression_that_is_none_is_told() -> None:
    with pytest.raises(HostError) as refusal:
        await matching_lines(TEXT, "[")

    assert refusal.value.code == "filter_failed"
