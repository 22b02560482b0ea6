"""Orders of probes over the local API."""

import asyncio
from dataclasses import replace

import pytest

from kaalia.client import LocalClient, LocalError
from kaalia.store import machine, reach
from kaalia.store.changes import Topic
from tests.api.conftest import Local, serving
from tests.support.builders import build_report


async def test_an_order_is_durable_and_rings(local: Local) -> None:
    await local.database.transaction(lambda tx: machine.put_report(tx, build_report()))
    bell = local.changes.subscribe(Topic.PORTS)

    before = await asyncio.to_thread(local.client.order_probe)

    assert (before.found, before.progress, before.failure) == (None, None, None)
    assert before.port_range == build_report().network.port_range
    assert bell.is_set()
    assert await local.database.read(reach.get_progress) is not None
    assert (await asyncio.to_thread(local.client.ports)).progress is not None


async def test_an_order_that_nobody_would_carry_out_is_refused(local: Local) -> None:
    path = local.socket.with_name("off.sock")
    async with serving(path, replace(local.context, probes_ports=False, listening=asyncio.Event())):
        with pytest.raises(LocalError) as refused:
            await asyncio.to_thread(LocalClient(path).order_probe)

    assert refused.value.code == "probe_off"
    assert await local.database.read(reach.get_progress) is None
