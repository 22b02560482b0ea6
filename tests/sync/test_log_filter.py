import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.sync.log_filter import CUT, apply_filter, compile_filter, is_simple

TEXT = "step 1 ok\nstep 2 error: disk\nStep 30 ERROR\nnothing (really) [x]\n"


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [
        ("error", [1]),
        ("(?i)error", [1, 2]),
        ("error|nothing", [1, 3]),
        (r"[Ss]tep \d+ ", [0, 1, 2]),
        ("^step.*ok$", [0]),
        (".*ERROR.*", [2]),
        ("(really)", [3]),
        ("[x]", [3]),
        ("[", [3]),
        ("absent", []),
    ],
)
def test_keeps_the_lines_that_people_expect(pattern: str, lines: list[int]) -> None:
    expected = "".join(f"{TEXT.splitlines()[number]}\n" for number in lines)
    assert apply_filter(TEXT, pattern, time.monotonic) == expected


def test_a_set_that_takes_long_to_prepare_is_not_for_this_process() -> None:
    assert not is_simple(r"(?i)[\x01-\uffff\x02-\uffff]")
    assert not is_simple("[a-\uffff]")
    assert is_simple(r"[\x01-\xff]")


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*b", "(a*)*b", "a{1,99}{1,99}b", r"(a)\1b", "a?" * 60 + "b" * 60, "a*a*a*a*b", ".*" * 20 + "b"],
)
def test_hostile_pattern_is_a_plain_substring(pattern: str) -> None:
    started = time.monotonic()
    assert not compile_filter(pattern)("a" * 100_000)
    assert compile_filter(pattern)(f"x {pattern} x")
    assert time.monotonic() - started < 0.5


@settings(max_examples=200, deadline=200)
@given(pattern=st.text("ab.*+?|[]^$\\dw(){}12,", max_size=40), line=st.text("ab1", max_size=30))
def test_any_pattern_is_quick_on_long_lines(pattern: str, line: str) -> None:
    keeps = compile_filter(pattern)
    keeps(line)
    keeps("ab" * 20_000)
    keeps("a" * 20_000)


@given(pattern=st.text("ab.*|^$", max_size=6), line=st.text("ab", max_size=12))
def test_simple_patterns_mean_what_they_mean_elsewhere(pattern: str, line: str) -> None:
    if pattern.count("*") > 2:
        return
    try:
        expected = re.search(pattern, line) is not None
    except re.error:
        expected = pattern in line
    assert compile_filter(pattern)(line) is expected


def test_filter_that_takes_too_long_is_cut_with_a_notice() -> None:
    ticks = iter([0.0, 0.1, 0.2, 5.0])
    assert apply_filter("a1\na2\na3\na4\n", "a", lambda: next(ticks)) == f"a1\na2\n{CUT}\n"


@pytest.mark.parametrize("pattern", ["error", "(?i)err.r+$", "a|b", "[x]", r"\d+", ".*ERROR.*"])
def test_simple_filters_are_used_here(pattern: str) -> None:
    assert is_simple(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|b)", "a{3}", "[", "*", "a*b*c*d*", "x" * 300])
def test_others_are_for_a_process_of_its_own(pattern: str) -> None:
    assert not is_simple(pattern)
