"""Verification on the marketplace: by heartbeats of a machine that signs what it says, as all sides see it."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.contracts.cordon import Cordon
from kaalia.contracts.fitness import Fault
from kaalia.errors import ConfigError
from kaalia.marketplace import verification_by_hand
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.verification_tables import sightings
from kaalia.model.health import HOST, Severity
from kaalia.model.machine import GpuDriver
from kaalia.model.sightings import Sightings
from kaalia.model.verification import State
from kaalia.model.workload import WorkloadState
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind, StatusMessage
from tests.marketplace.liar import new_token, open_liar
from tests.marketplace.renting import ask_of, rent, say
from tests.marketplace.support import statements
from tests.marketplace.verifying import HOUR, beat, open_machine, open_verified, orders, prove, record, view, xid
from tests.support.clock import START
from tests.support.sound import notice, sound_report, whole_run

pytestmark = pytest.mark.usefixtures("database")


async def test_a_machine_is_verified_when_its_test_arrives_and_renters_find_it_then(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        renter, host = liar.market.client(liar.market.renter), liar.market.client(liar.market.host)
        before = await renter.json("search", "offers")
        missing = [lack.code for lack in (await view(liar)).lacks]
        await prove(liar)
        after = await renter.json("search", "offers")
        launched = await renter.json("search", "offers", "num_gpus=2 gpu_name=RTX_4090")
        unverified = await renter.json("search", "offers", "verified=false")
        shown = await host.run("show", "machines")

        await beat(liar, conditions=(xid(),), faults=(xid(),))
        hidden = await renter.json("search", "offers")
        anyhow = await renter.json("search", "offers", "verified=any")
        row = (await host.json("show", "machines"))["machines"][0]

    assert (before, missing) == ([], ["selftest"])
    assert sorted(offer["num_gpus"] for offer in after) == [1, 1, 2]
    assert [offer["verification"] for offer in launched] == ["verified"]
    assert unverified == []
    assert " verified" in shown.stdout
    assert hidden == []
    assert {(offer["verification"], offer["vericode"], offer["error_description"]) for offer in anyhow} == {
        ("deverified", 8, "gpu_xid_79")
    }
    assert (row["verification"], row["vericode"]) == ("deverified", 8)
    assert "gpu_xid_79" in row["error_description"]


async def test_a_healthy_offer_carries_no_word_of_trouble(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        offers = await liar.market.search()
        row = (await liar.market.host.call("GET", "/api/v0/machines")).body["machines"][0]

    assert {(offer["vericode"], offer["error_description"], offer["verified"]) for offer in offers} == {(0, None, True)}
    assert (row["vericode"], row["error_description"]) == (0, None)


async def test_the_whole_walk_by_heartbeats(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        states = []
        for step in ({"conditions": (xid(),)}, {}, {"after_s": 1000.0}):
            await beat(liar, **step)
            states.append((await record(liar)).verification)
        asked = await orders(liar)
        await prove(liar, 2, task_id=asked[0].task_id)
        told = await view(liar)

    assert states == ["deverified", "deverified", "unverified"]
    assert len(asked) == 1
    assert (told.state, told.ordered, told.lacks) == (State.VERIFIED, None, ())
    assert [change.state for change in told.history] == [
        State.VERIFIED,
        State.DEVERIFIED,
        State.UNVERIFIED,
        State.VERIFIED,
    ]


async def test_the_first_test_is_ordered_when_nothing_else_is_lacking_and_once(tmp_path: Path) -> None:
    async with open_machine(tmp_path, sound_report(mbps=50.0)) as liar:
        await beat(liar)
        slow = await orders(liar)
        for seq in (2, 3, 4):
            await beat(liar, StatusMessage(seq, MessageKind.REPORT, report=sound_report()))
        asked = await orders(liar)
        told = await view(liar)

    assert slow == []
    assert len(asked) == 1
    assert asked[0].contract_id == 0
    assert told.ordered is not None
    assert (told.ordered.task_id, told.ordered.why) == (asked[0].task_id, "it lacks a test that passed")


async def test_a_machine_that_its_owner_drains_is_asked_for_no_test(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        drained = Cordon(START, None)
        report = StatusMessage(1, MessageKind.REPORT, report=sound_report())
        await liar.post(report, conditions=(), cordon=drained)
        body = {"machine": liar.machine_id, "price_gpu": 0.4}
        await liar.market.host.call("PUT", "/api/v0/machines/create_asks/", body)
        await beat(liar, cordon=drained)
        await beat(liar, cordon=drained)
        quiet = await orders(liar)
        await beat(liar)
        await beat(liar)
        asked = await orders(liar)

    assert (quiet, len(asked)) == ([], 1)


async def test_nobody_who_rents_is_disturbed_by_a_test(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        liar.market.context.settings = replace(liar.market.context.settings, public_url=liar.market.url)
        instance_id = await rent(liar.market, num_gpus=1)
        await say(liar.market, instance_id, WorkloadState.RUNNING, gpu_uuids=("GPU-00000000",))
        async with liar.market.context.engine.begin() as tx:
            await tx.execute(
                sa.insert(tables.charges).values(
                    contract_id=instance_id,
                    machine_id=liar.machine_id,
                    user_id=2,
                    host_id=1,
                    meter="run",
                    quantity=1,
                    started_at=START.timestamp(),
                )
            )
        for _ in range(40):
            await beat(liar, after_s=24 * HOUR / 12)
        rented = await orders(liar)
        await beat(liar, conditions=(xid("GPU-00000001"),))
        down = await record(liar)
        instance = await liar.market.renter.call("GET", f"/api/v0/instances/{instance_id}/")

    assert rented == []
    assert down.verification == "deverified"
    assert instance.body["instances"]["intended_status"] == "running"


async def test_a_simulated_driver_is_verified_only_where_the_operator_says_so(tmp_path: Path) -> None:
    driver = GpuDriver("550.54.15", "12.4", simulated=True)
    for name, wanted, settings in (("plain", "unverified", {}), ("trying", "verified", {"verifies_simulated": True})):
        (tmp_path / name).mkdir()
        async with open_machine(tmp_path / name, sound_report(driver=driver), **settings) as liar:
            await prove(liar)
            known = await record(liar)

        assert known.verification == wanted
        assert ("refused" in [lack.code for lack in known.verified.lacks]) == (wanted == "unverified")  # type: ignore[union-attr]


async def test_less_hardware_deverifies_and_a_test_as_it_is_now_verifies_again(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await beat(liar, StatusMessage(2, MessageKind.REPORT, report=sound_report(gpus=1)))
        down = await view(liar)
        run = whole_run(liar.market.clock.now() + timedelta(minutes=20), 2)
        await beat(liar, selftests=(notice(run, sound_report(gpus=1)),), after_s=1800)
        again = await record(liar)

    assert (down.state, [cause.code for cause in down.causes]) == (State.DEVERIFIED, ["capacity_reduced"])
    assert "1 of 2 GPUs" in down.causes[0].words
    assert again.verification == "verified"


async def test_reliability_below_the_requirement_deverifies(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await beat(liar, after_s=4 * 24 * HOUR)
        down = await record(liar)
        told = await view(liar)

    assert down.verification == "deverified"
    assert [cause.code for cause in told.causes] == ["reliability"]
    assert "required > 0.9" in told.causes[0].words


async def test_an_older_daemon_is_judged_by_its_faults(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await beat(liar, conditions=None, faults=(xid(),))

        assert (await record(liar)).verification == "deverified"


async def test_the_same_heartbeats_write_and_tell_nothing(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        before = (await record(liar)).revision
        with statements(liar.market.context) as seen:
            for _ in range(5):
                await beat(liar, conditions=())
        after = (await record(liar)).revision

    assert before == after
    assert not [one for one in seen if "verifications" in one and not one.lstrip().startswith("SELECT")]


async def test_two_renters_have_a_machine_tested_and_one_has_not(tmp_path: Path) -> None:
    async with open_verified(tmp_path, offline_after_s=48 * HOUR) as liar:
        for user_id, seen in ((2, 0), (2, 0), (3, 1)):
            async with liar.market.context.engine.begin() as tx:
                await tx.execute(
                    sa.insert(tables.machine_reports).values(
                        machine_id=liar.machine_id,
                        user_id=await user(tx, user_id),
                        problem="slow",
                        message="it is slow",
                        created_at=liar.market.clock.now().timestamp() + 1,
                    )
                )
            # After a test there is a day of rest from reports.
            await beat(liar, after_s=24 * HOUR)
            assert len(await orders(liar)) == seen


async def user(tx: Any, number: int) -> int:
    query = sa.select(tables.users.c.id).where(tables.users.c.id == number)
    if await tx.scalar(query) is None:
        values = {"id": number, "username": f"user{number}", "created_at": START.timestamp()}
        await tx.execute(sa.insert(tables.users).values(values))
    return number


async def test_the_operator_takes_a_machine_off_the_market_and_puts_it_back(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        engine, now = liar.market.context.engine, liar.market.clock.now
        ask_id = await ask_of(liar.market.context, machine_id=liar.machine_id)
        await verification_by_hand.bar(engine, liar.machine_id, "mines coins on idle GPUs", now())
        barred = await liar.market.search(machine_id={"eq": str(liar.machine_id)})
        refused = await liar.market.renter.call("PUT", f"/api/v0/asks/{ask_id}/", {"image": "ubuntu", "disk": 10})
        row = (await liar.market.host.call("GET", "/api/v0/machines")).body["machines"][0]
        await beat(liar)
        still = await verification_by_hand.view(engine, liar.machine_id, now())
        await verification_by_hand.lift(engine, liar.machine_id, now())
        await beat(liar)
        back = await liar.market.search(verified={"eq": True}, rentable={"eq": True})
        with pytest.raises(ConfigError, match="there is none"):
            await verification_by_hand.lift(engine, liar.machine_id, now())
        with pytest.raises(ConfigError, match="cannot find machine 99"):
            await verification_by_hand.bar(engine, 99, "why", now())
        with pytest.raises(ConfigError, match="1 to 300 characters"):
            await verification_by_hand.bar(engine, liar.machine_id, " ", now())

    assert {(offer["rentable"], offer["verification"]) for offer in barred} == {(False, "deverified")}
    assert (refused.status, refused.body["error"]) == (410, "machine_barred")
    assert "<admin-set>" in row["error_description"]
    assert "mines coins" in row["error_description"]
    assert [cause.code for cause in still.causes] == ["<admin-set>"]
    assert still.state is State.DEVERIFIED
    assert len(back) == 3


async def test_a_machine_that_was_deleted_and_comes_back_begins_anew(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        await liar.market.host.call("POST", f"/api/v0/machines/{liar.machine_id}/force_delete/", {})
        await liar.enrol(await new_token(liar.market))
        known = await record(liar)

    assert known.verified is not None
    assert (known.verification, known.verified.proof) == ("unverified", None)


async def test_a_fault_of_the_whole_machine_for_a_moment_costs_nothing(tmp_path: Path) -> None:
    engine = Fault(HOST, "engine_unavailable", Severity.CRITICAL, START, "cannot reach Docker")
    async with open_verified(tmp_path) as liar:
        for after_s in (60.0, 60.0, 60.0):
            await beat(liar, conditions=(engine,), after_s=after_s)
        short = (await record(liar)).verification
        await beat(liar)
        await beat(liar, conditions=(engine,))
        await beat(liar, conditions=(engine,), after_s=660.0)
        long = (await record(liar)).verification

    assert (short, long) == ("verified", "deverified")


@pytest.mark.parametrize(("address", "wanted"), [("203.0.113.7", "unverified"), ("203.0.113.8", "verified")])
async def test_ports_that_the_marketplace_tried_itself_go_before_the_machines_word(
    tmp_path: Path, address: str, wanted: str
) -> None:
    """The machine claims a thousand ports; at its address five were reached, and six are required."""
    seen = Sightings(address, START, tcp=((40000, 40004),))
    async with open_machine(tmp_path) as liar:
        async with liar.market.context.engine.begin() as tx:
            record_text = document.encode(seen)
            await tx.execute(sa.insert(sightings).values(machine_id=liar.machine_id, record=record_text))
        await prove(liar)
        known = await record(liar)

    assert known.verification == wanted
    assert known.verified is not None
    if wanted == "unverified":
        assert [(lack.code, lack.actual) for lack in known.verified.lacks] == [("network.direct_ports", "5 ports")]


async def test_posts_at_once_are_judged_one_after_the_other(tmp_path: Path) -> None:
    async with open_machine(tmp_path) as liar:
        texts = [notice(whole_run(liar.market.clock.now(), number)) for number in range(1, 6)]
        await asyncio.gather(
            *(liar.post(stream=f"s{at}", conditions=(), selftests=(text,)) for at, text in enumerate(texts))
        )
        known = await record(liar)

    assert known.verification == "verified"
