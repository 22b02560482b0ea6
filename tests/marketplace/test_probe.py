"""The marketplace's prober behind a proxy that does not tell where requests come from."""

from pathlib import Path

import pytest

from kaalia.errors import MarketplaceError
from kaalia.wire.probe import ProbeRequest
from tests.sync.support import open_pair
from tests.sync.test_prober import NONCE, link_of


async def test_a_proxy_that_hides_its_clients_is_told_and_its_own_ports_are_not_tried(tmp_path: Path) -> None:
    async with open_pair(tmp_path, behind_proxy=True) as (_, host), link_of(host).open() as ask:
        with pytest.raises(MarketplaceError) as refused:
            await ask(ProbeRequest(NONCE))

    assert (refused.value.status, refused.value.code) == (503, "probe_address_unknown")
