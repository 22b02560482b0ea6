"""Reports that cannot be true: no machine spoils the answers to others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.model.machine import GpuDriver, Memory, Network, PortRange
from kaalia.wire.protocol import MessageKind, StatusMessage
from tests.marketplace.liar import open_liar
from tests.support.machines import machine_report

ODD_REPORTS = {
    "backward ports": {"network": Network("203.0.113.7", (), PortRange(50000, 40000))},
    "no such driver": {"driver": GpuDriver("a.b", "twelve")},
    "twins": {"gpus": machine_report(gpus=1).gpus * 2},
    "thousands of GPUs": {"gpus": tuple(replace(machine_report(1).gpus[0], uuid=f"GPU-{n}") for n in range(5000))},
    "antimatter": {"memory": Memory(-1, -1)},
}


@pytest.mark.parametrize("changes", ODD_REPORTS.values(), ids=ODD_REPORTS)
async def test_no_machine_can_spoil_the_search_for_others(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with open_liar(tmp_path) as liar:
        honest = await liar.market.list_machine()
        await liar.post(StatusMessage(1, MessageKind.REPORT, report=machine_report(gpus=1)))
        listed = await liar.market.host.call(
            "PUT", "/api/v0/machines/create_asks/", {"machine": liar.machine_id, "price_gpu": 0.1}
        )
        reply = await liar.post(StatusMessage(2, MessageKind.REPORT, report=replace(machine_report(gpus=1), **changes)))
        offers = await liar.market.search(machine_id={"eq": honest})
        everything = await liar.market.search(limit=10_000)

    assert listed.status == 200
    assert reply.acked_seq == 2
    assert offers
    assert len(everything) < 300
