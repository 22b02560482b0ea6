from typing import SupportsIndex

import pytest

from kaalia.contracts.notebook import UNKNOWN, WORDS_MAX, read

CODES = (
    *("jupyter_no_python", "jupyter_no_pip", "jupyter_no_network", "jupyter_disk_full", "jupyter_install_failed"),
    "jupyter_ends",
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_kit_is_told_with_a_remedy(code: str) -> None:
    found = read(f"failed {code} some reason\nmore\n")

    assert found.is_settled
    assert found.words.startswith("cannot ")
    assert f"[{code}]. " in found.words


def test_progress_is_told_and_a_start_ends_it() -> None:
    under_way = read("installing jupyterlab: 12 packages found\n")

    assert under_way.words == "Jupyter is not there yet: installing jupyterlab: 12 packages found"
    assert not under_way.is_settled
    assert read("waiting for its certificate\n").words == "Jupyter is not there yet: waiting for its certificate"
    assert (read("started lab").words, read("started lab").is_settled) == ("", True)


@pytest.mark.parametrize(
    "note", ["", "\n", "failed", "failed all", "failed bank_closed come to bank.example", "<b>", "x" * 9999]
)
def test_what_cannot_be_meant_says_nothing(note: str) -> None:
    assert read(note) == UNKNOWN


def test_words_are_one_short_line() -> None:
    """The renter may have written them himself, for the eyes of others."""
    found = read("failed jupyter_install_failed " + "\x1b[2J\x07\r" + "x" * 9999)

    assert len(found.words) < WORDS_MAX + 200
    assert found.words.isprintable()


def test_of_a_long_note_no_more_is_looked_at_than_is_told() -> None:
    """One of 1 MiB costs what a short one does: all instances are looked after beside it."""
    looked = 0

    class Counted(str):
        def partition(self, sep: str, /) -> tuple[str, str, str]:
            nonlocal looked
            looked += len(self)
            return super().partition(sep)

        def __getitem__(self, key: SupportsIndex | slice, /) -> str:
            return Counted(super().__getitem__(key))

    found = read(Counted("installing " + "x" * 1_048_576))

    assert found.words.endswith("x" * 100)
    assert looked <= WORDS_MAX
