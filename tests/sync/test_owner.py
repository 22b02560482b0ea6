"""The owner's side on the machine: signed snapshots go through pull and reconciler, and his terms and policy hold.

Whoever signs here has the marketplace's own key.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import Contract, ContractKind, Desired, prolonged
from kaalia.contracts.offer import Listing, frozen
from kaalia.contracts.policy import OPEN, Policy
from kaalia.errors import Problem
from kaalia.model.workload import NotMade, WorkloadState, WorkloadStatus
from kaalia.reconciler.launch import Settings
from kaalia.store import conditions
from kaalia.sync.backoff import Backoff
from kaalia.sync.pull import CONDITIONS, Pull
from kaalia.units import GB
from kaalia.wire import document, signature
from kaalia.wire.protocol import Snapshot
from tests.marketplace.support import Market
from tests.reconciler.rig import LISTING, Rig
from tests.support.builders import build_contract
from tests.support.clock import START
from tests.support.fake_runtime import FakeRuntime
from tests.sync.support import Machine, open_pair

DAY = timedelta(days=1)


@dataclass
class House:
    """One machine with two GPUs, and the marketplace whose key it trusts."""

    market: Market
    machine: Machine
    rig: Rig
    policy: Policy = OPEN
    revision: int = 100

    async def tell(self, *told: Contract, listing: Listing | None = LISTING) -> None:
        """A signed snapshot with these contracts; then the machine does what it makes of it."""
        self.revision += 1
        now = self.machine.clock.now()
        snapshot = Snapshot(
            machine_id=self.machine.member.machine_id,
            epoch=1,
            revision=self.revision,
            issued_at=now,
            not_after=now + timedelta(hours=1),
            listing=listing,
            contracts=told,
            tasks=(),
            complete=True,
            marketplace_url=self.market.url,
        )
        host = self.machine
        pull = Pull(host.database, host.client, host.clock, host.member, Backoff(random.Random(1)), self.policy)
        await pull.accept(signature.sign_document(self.market.context.signing_key, document.encode(snapshot)))
        await self.rig.settle()

    async def adopt(self, policy: Policy) -> None:
        """The owner changes his configuration and starts the daemon anew."""
        self.policy = policy
        self.rig.settings = Settings(policy=policy)
        await self.rig.restart()

    async def known(self, contract_id: int = 51) -> Contract:
        return (await self.machine.contracts())[contract_id].contract

    async def row(self, contract_id: int = 51) -> WorkloadStatus:
        return await self.rig.row(contract_id)

    async def complaints(self) -> list[tuple[str, str]]:
        """What `kaalia status` tells of the marketplace's words."""
        found = await self.machine.database.read(conditions.all_open)
        return [(one.condition.problem.code, one.condition.scope) for one in found if one.source == CONDITIONS]

    async def complaint(self) -> Problem:
        (found,) = await self.machine.database.read(conditions.all_open)
        return found.condition.problem


@asynccontextmanager
async def open_house(folder: Path, policy: Policy = OPEN) -> AsyncIterator[House]:
    async with open_pair(folder) as (market, machine):
        runtime = FakeRuntime(machine.clock)
        rig = Rig(machine.database, machine.changes, machine.clock, runtime, settings=Settings(policy=policy))
        await rig.prepare()
        yield House(market, machine, rig, policy)
        await rig.service.detach()
        assert runtime.violations == []


def rented(contract_id: int = 51, kind: ContractKind = ContractKind.ON_DEMAND, **changes: Any) -> Contract:
    made = build_contract(contract_id, kind=kind, **changes)
    return replace(made, terms=frozen(LISTING, made.end_at))


def job(contract_id: int = 90, **changes: Any) -> Contract:
    made = build_contract(contract_id, kind=ContractKind.DEFAULT_JOB, price_usd_per_hour=Decimal(0), end_at=None)
    return replace(made, spec=replace(made.spec, disk_bytes=2 * GB), **changes)


async def test_an_agreed_contract_starts_though_the_owner_asks_more_by_now_and_unlists(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        dear = Listing(Decimal(9), min_gpu=2, end_at=START + DAY)
        await house.tell(rented(51), listing=dear)
        await house.tell(rented(51), rented(52), listing=None)

        assert (await house.row(51)).state is WorkloadState.RUNNING
        assert (await house.row(52)).state is WorkloadState.RUNNING


async def test_without_terms_the_listing_of_the_snapshot_rules(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.tell(replace(rented(), terms=None), listing=None)

        refused = await house.row()
        assert refused.problem is not None
        assert (refused.state, refused.problem.code) == (WorkloadState.REJECTED, "not_listed")


async def test_a_contract_below_its_own_terms_is_refused_and_says_so(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.tell(replace(rented(), price_usd_per_hour=Decimal("0.01")), listing=Listing(Decimal(0)))

        refused = await house.row()
        assert refused.state is WorkloadState.REJECTED
        assert "[price_below_floor]" in refused.status_msg
        assert await house.rig.told() == ["rejected"]
        assert house.rig.runtime.containers == {}


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(min_price_gpu_per_hour=Decimal("0.41")), "price_below_policy"),
        (Policy(latest_end_at=START + 9 * DAY), "end_after_policy"),
        (Policy(max_duration=9 * DAY), "duration_above_policy"),
        (Policy(banned_images=("*/busy*",)), "image_banned"),
    ],
)
async def test_the_owners_policy_refuses_what_is_signed(tmp_path: Path, policy: Policy, code: str) -> None:
    async with open_house(tmp_path, policy) as house:
        await house.tell(rented())

        refused = await house.row()
        assert refused.state is WorkloadState.REJECTED
        assert refused.problem is not None
        assert refused.problem.code == code
        assert f"[{code}]" in refused.status_msg
        assert house.rig.runtime.containers == {}


async def test_a_stricter_policy_touches_nothing_that_runs_or_is_stopped(tmp_path: Path) -> None:
    nothing = Policy(Decimal(99), START, timedelta(seconds=1), ("*",), False, False)
    async with open_house(tmp_path) as house:
        stopped = rented(52, desired=Desired.STOPPED)
        await house.tell(rented(51), rented(52))
        await house.tell(rented(51), stopped)
        before = dict(house.rig.runtime.containers)

        await house.adopt(nothing)
        await house.tell(rented(51), stopped, rented(53))

        assert house.rig.runtime.containers == before
        assert [(await house.row(number)).state for number in (51, 52, 53)] == [
            WorkloadState.RUNNING,
            WorkloadState.STOPPED,
            WorkloadState.REJECTED,
        ]
        assert await house.complaints() == []
        await house.tell(rented(51), rented(52))
        assert (await house.row(52)).state is WorkloadState.RUNNING


async def test_a_default_job_cannot_become_a_rental_at_no_price(tmp_path: Path) -> None:
    """The way around the price floor: admitted as own work, then called something better."""
    async with open_house(tmp_path) as house:
        await house.tell(job())
        assert (await house.row(90)).state is WorkloadState.RUNNING

        firm = job(kind=ContractKind.ON_DEMAND, generation=2, terms=Listing(Decimal(0)))
        await house.tell(firm)
        assert (await house.known(90)).kind is ContractKind.DEFAULT_JOB
        assert await house.complaints() == [("kind_changed", "C.90")]

        await house.tell(firm, rented(51), rented(52))
        assert [(await house.row(number)).state for number in (51, 52)] == [WorkloadState.RUNNING] * 2
        assert (await house.row(90)).state is WorkloadState.STOPPED

        await house.tell(job(), rented(51), rented(52))
        assert await house.complaints() == []


async def test_a_tombstone_is_no_way_to_another_kind(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.tell(job())
        await house.tell(job(kind=ContractKind.ON_DEMAND, desired=Desired.ENDED))
        assert (await house.row(90)).state is WorkloadState.ENDED

        await house.tell(job(kind=ContractKind.ON_DEMAND, generation=2))

        assert (await house.row(90)).state is WorkloadState.ENDED
        assert house.rig.runtime.containers == {}


async def test_a_second_word_before_the_first_is_acted_on_is_no_way_either(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.tell(rented(51), rented(52))
        await house.tell(rented(51), rented(52), job())
        waiting = await house.row(90)
        await house.tell(rented(51), rented(52), job(kind=ContractKind.ON_DEMAND))
        await house.tell(replace(rented(51), desired=Desired.ENDED), rented(52), job(kind=ContractKind.ON_DEMAND))

        assert waiting.state is WorkloadState.WAITING
        assert (await house.known(90)).kind is ContractKind.DEFAULT_JOB
        await house.tell(rented(52), rented(53), job(kind=ContractKind.ON_DEMAND))
        assert (await house.row(53)).state is WorkloadState.RUNNING


async def test_a_cheap_beginning_is_no_way_to_a_long_or_large_contract(tmp_path: Path) -> None:
    policy = Policy(min_price_gpu_per_hour=Decimal("0.4"), max_duration=20 * DAY, banned_images=("debian",))
    async with open_house(tmp_path, policy) as house:
        await house.tell(rented())
        container = dict(house.rig.runtime.containers)

        for told, code in (
            (replace(rented(), price_usd_per_hour=Decimal(0)), "price_below_policy"),
            (replace(rented(), terms=Listing(Decimal(0))), "terms_changed"),
            (prolonged(rented(), None), "duration_above_policy"),
            (replace(rented(), end_at=START + 15 * DAY), "end_after_listing"),
            (replace(rented(), generation=2, spec=replace(rented().spec, gpu_count=2)), "spec_grown"),
            (replace(rented(), generation=2, spec=replace(rented().spec, image="debian:12")), "image_banned"),
        ):
            await house.tell(told, listing=None)
            assert await house.complaints() == [(code, "C.51")]
            known = await house.known()
            refused = None if told.generation == 1 else NotMade(2, await house.complaint())
            assert known == replace(rented(), refused=refused), "and of a generation its renter is told why"
        assert house.rig.runtime.containers == container


async def test_what_is_lawful_is_taken(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        bid = rented(52, ContractKind.INTERRUPTIBLE)
        for told in (
            rented(51),
            prolonged(rented(51), START + 30 * DAY),
            replace(rented(51), kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.24")),
            replace(bid, price_usd_per_hour=Decimal("0.7")),
            replace(bid, price_usd_per_hour=Decimal("0.4")),
        ):
            await house.tell(told, listing=None)
            assert await house.known(told.contract_id) == told
            assert await house.complaints() == []


async def test_a_self_test_ends_by_itself_and_cannot_be_prolonged(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        test = job(95, kind=ContractKind.SELFTEST, end_at=START + timedelta(hours=1))
        await house.tell(test, job(96, kind=ContractKind.SELFTEST))
        assert (await house.row(95)).state is WorkloadState.RUNNING
        refused = (await house.row(96)).problem
        assert refused is not None
        assert refused.code == "selftest_too_long"

        await house.tell(replace(test, end_at=None))
        assert await house.complaints() == [("selftest_too_long", "C.95")]
        await house.rig.later(hours=1)
        assert (await house.row(95)).state is WorkloadState.STOPPED
