"""Both databases, for the tests of what must hold on either: `pytestmark = pytest.mark.usefixtures("database")`."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.marketplace import support
from tests.support.postgres import PostgreSQL, programs, serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed: run scripts/setup as root")
    with serving(found) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name. Markets of the test have theirs there, each folder one."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")

        @cache
        def url_of(folder: Path) -> str:
            return str(server.new_database())

        monkeypatch.setattr(support, "url_of", url_of)
    return str(request.param)
