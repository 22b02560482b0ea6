"""An end that the marketplace moves is written beside the books before it is accepted."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.errors import StoreError
from kaalia.store import ends
from tests.sync.support import contract, open_pair
from tests.sync.test_pull import pull_of, signed, snapshot


async def test_a_moved_end_is_recorded_before_it_is_accepted(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull, path = pull_of(host), host.state_dir / "state.db"
        first = contract(51, end_at=host.clock.now() + timedelta(hours=1))
        later = replace(first, end_at=host.clock.now() + timedelta(days=9))
        await pull.accept(signed(market, snapshot(host, 100, contracts=(first,))))
        ends.beside(path).unlink()
        ends.beside(path).mkdir()  # nothing can be written there
        with pytest.raises(StoreError):
            await pull.accept(signed(market, snapshot(host, 101, contracts=(later,))))
        assert (await host.contracts())[51].contract == first

        ends.beside(path).rmdir()
        await pull.accept(signed(market, snapshot(host, 101, contracts=(later,))))

        assert (await host.contracts())[51].contract == later
        assert await asyncio.to_thread(ends.recorded, path) == {51: later.end_at}
