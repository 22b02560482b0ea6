"""The unmodified client and SDK against marketplace, daemon and a real Docker Engine."""

from collections.abc import Callable

import pytest

from tests.e2e.flows import FLOWS, World

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.__name__))
def test_flow(world: World, flow: Callable[[World], None]) -> None:
    flow(world)
