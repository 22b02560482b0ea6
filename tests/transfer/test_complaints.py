"""What is kept of a program's complaints."""

from kaalia.transfer.complaints import FIRST, LAST, LINE_MAX_CHARS, Complaints


def test_the_cause_is_kept_whatever_follows() -> None:
    said = Complaints()
    said.add("write /files/data: disk quota exceeded")
    for number in range(1000):
        said.add(f"chunk {number}: context canceled")

    lines = said.text.splitlines()

    assert lines[0] == "write /files/data: disk quota exceeded"
    assert lines[-1] == "chunk 999: context canceled"
    assert len(lines) == FIRST + LAST


def test_a_few_are_told_once_and_long_ones_are_cut() -> None:
    said = Complaints()
    assert said.text == ""
    said.add("x" * 5000)
    said.add("y")
    assert said.text == f"{'x' * LINE_MAX_CHARS}\ny"
