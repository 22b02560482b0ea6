"""The machine's address changes: what runs keeps the old one in its environment, and its renter is told."""

from dataclasses import replace

from kaalia.contracts.contract import Desired
from kaalia.model.workload import WorkloadState
from kaalia.store import machine, workloads
from kaalia.store.changes import Topic
from tests.reconciler.rig import Rig, contract
from tests.support.builders import build_report

PLAIN = "success, running docker.io/library/busybox:1.36/args"
OLD, NEW = "203.0.113.7", "198.51.100.4"
WARNING = f"; warning: this machine's address is {NEW} now; PUBLIC_IPADDR inside stays {OLD} until it is recycled"


async def move(rig: Rig, address: str | None) -> None:
    report = build_report(rig.clock.now())
    moved = replace(report, network=replace(report.network, public_ip=address))
    await rig.store.transaction(lambda tx: machine.put_report(tx, moved), Topic.MACHINE)
    await rig.settle()


async def test_the_renter_of_what_runs_is_told_and_a_recycle_takes_the_new_one(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    assert (await rig.row()).public_ipaddr == OLD

    await move(rig, NEW)

    assert (await rig.row()).status_msg == PLAIN + WARNING
    assert rig.runtime.count("stop") == rig.runtime.count("remove") == 0
    await rig.put(contract(generation=2))
    await rig.settle()
    assert dict(rig.runtime.placements[51].env)["PUBLIC_IPADDR"] == NEW
    row = await rig.row()
    assert (row.status_msg, row.public_ipaddr, row.generation) == (PLAIN, NEW, 2)


async def test_a_later_start_of_the_same_container_is_told_too(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    await move(rig, NEW)
    assert (await rig.row()).status_msg == "stopped"

    await rig.put(contract())
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.status_msg) == (WorkloadState.RUNNING, PLAIN + WARNING)


async def test_an_address_that_comes_back_or_is_not_known_now_is_no_news(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    await move(rig, None)
    assert (await rig.row()).status_msg == PLAIN
    await move(rig, NEW)
    await move(rig, OLD)
    assert (await rig.row()).status_msg == PLAIN


async def test_what_an_older_kaalia_made_is_told_nothing_of(rig: Rig) -> None:
    """Nobody knows which address it has."""
    await rig.put(contract())
    await rig.settle()
    unknown = replace(await rig.row(), public_ipaddr=None)
    await rig.store.transaction(lambda tx: workloads.put(tx, unknown))

    await move(rig, NEW)

    assert (await rig.row()).status_msg == PLAIN
