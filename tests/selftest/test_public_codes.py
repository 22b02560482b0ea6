"""Every failure code of the public client is brought about by a fault, or said to be one that no fault brings about."""

import re
from pathlib import Path

from tests.proofs.selftest_faults import LAST, NEVER, PASSES, QUEUES
from tests.support.public_client import commands_source, runtime_codes

PAGE = Path(__file__).parents[2] / "docs" / "self-test-image.md"
CASES = [case for queue in (*QUEUES, LAST) for case in queue]


def test_each_code_of_the_client_is_provoked_or_named_as_one_that_never_comes() -> None:
    provoked = {case.code for case in CASES} - {PASSES}

    assert runtime_codes() - provoked == set(NEVER)
    assert not provoked & set(NEVER)


def test_the_client_has_names_of_codes_that_it_never_says() -> None:
    """When it does, it can be made to say them, and the proof lacks a case."""
    unsaid = {code for code in runtime_codes() if code.upper() not in commands_source()}

    assert {"cleanup_failed", "instance_status_poll_failed"} <= unsaid & set(NEVER)


def test_the_page_tells_each_case_and_each_code() -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \|", text, re.MULTILINE)

    assert [(case.name, case.code) for case in CASES] == [row for row in rows if row[0] in {one.name for one in CASES}]
    assert [code for code in NEVER if f"| `{code}` |" not in text] == []
