"""A reconciler with everything around it, driven turn by turn: no real time passes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

from kaalia.contracts.contract import Contract
from kaalia.contracts.lease import LeaseTime, certain
from kaalia.contracts.offer import Listing
from kaalia.errors import KaaliaError
from kaalia.model.machine import MachineReport
from kaalia.model.workload import PortRequest, Protocol, WorkloadState, WorkloadStatus
from kaalia.reconciler.launch import Settings
from kaalia.reconciler.service import ReconcilerService
from kaalia.runtime.base import BindMount, ImageFacts, RegistryLogin
from kaalia.runtime.networking import NetworkPool
from kaalia.store import amounts, claims, contracts, enrolment, intents, machine, outbox, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import Claim
from kaalia.store.database import Database
from kaalia.store.enrolment import AcceptedSnapshot
from tests.support.builders import build_contract, build_report
from tests.support.clock import FakeClock
from tests.support.fake_runtime import FakeRuntime
from tests.support.placements import MACHINE

IMAGE = build_contract().spec.image
LISTING = Listing(price_gpu_per_hour=Decimal("0.40"))


class Crash(BaseException):
    """The daemon dies here."""


@dataclass
class Rig:
    store: Database
    changes: Changes
    clock: FakeClock
    runtime: FakeRuntime
    login: RegistryLogin | None = None
    foreign_ports: set[int] = field(default_factory=set)
    """Ports that a probe finds busy."""
    mounts_fail_with: KaaliaError | None = None
    settings: Settings = field(default_factory=Settings)
    crash_at: str | None = None
    revision: int = 0
    lease_time: LeaseTime | None = None
    """What contracts go by; None: the clock."""
    networks: NetworkPool | None = None
    """Networks that stand ready."""
    tags: tuple[str, ...] = ()
    """What the registry has of any image."""
    asked_for_tags: int = 0
    service: ReconcilerService = field(init=False)

    def __post_init__(self) -> None:
        self.boot()

    def boot(self, booted_days_ago: float | None = None) -> None:
        """A new daemon process."""
        booted_at = None if booted_days_ago is None else self.clock.now() - timedelta(days=booted_days_ago)
        self.service = ReconcilerService(
            self.store,
            self.changes,
            self.runtime,
            self.clock,
            MACHINE,
            self.login_for,
            self.settings,
            lambda port, _: port in self.foreign_ports,
            booted_at=booted_at,
            lease_time=lambda: self.lease_time or certain(self.clock.now()),
            randbelow=Random(7).randrange,
            checkpoint=self._checkpoint,
            mounts=self._mounts,
            networks=self.networks,
            tags=self._tags,
        )

    async def restart(self, booted_days_ago: float | None = None) -> None:
        await self.service.detach()
        self.boot(booted_days_ago)

    async def login_for(self, contract_id: int) -> RegistryLogin | None:
        return self.login

    async def _tags(self, _name: str, _login: RegistryLogin | None) -> tuple[str, ...]:
        self.asked_for_tags += 1
        return self.tags

    async def _mounts(self, _: Contract) -> tuple[BindMount, ...]:
        if self.mounts_fail_with is not None:
            raise self.mounts_fail_with
        return ()

    def _checkpoint(self, point: str) -> None:
        if point == self.crash_at:
            self.crash_at = None
            raise Crash(point)

    # What others write

    async def prepare(self, report: MachineReport | None = None, listing: Listing | None = LISTING) -> None:
        """A listed machine whose marketplace spoke a moment ago, with the image of the contracts."""
        found = report or build_report(self.clock.now())

        def work(tx: Any) -> None:
            machine.put_report(tx, found)
            machine.put_listing(tx, listing)

        await self.store.transaction(work, Topic.MACHINE)
        await self.speak()
        self.runtime.add_image(IMAGE, ImageFacts("sha256:" + "1" * 64, (PortRequest(9000),)))

    async def speak(self, valid: timedelta = timedelta(hours=1)) -> None:
        """A newer word of the marketplace."""
        self.revision += 1
        now = self.clock.now()
        word = AcceptedSnapshot(1, self.revision, now + valid, "{}", now)
        await self.store.transaction(lambda tx: enrolment.put_snapshot(tx, word), Topic.CONTRACTS)

    async def put(self, *wanted: Contract) -> None:
        def work(tx: Any) -> None:
            for contract in wanted:
                contracts.upsert(tx, contract, self.clock.now())

        await self.store.transaction(work, Topic.CONTRACTS)

    # Turns

    async def settle(self, turns: int = 40) -> None:
        """Turns until nothing is in flight and two in a row begin nothing."""
        quiet = 0
        for _ in range(turns):
            before = len(self.runtime.calls), await self.store.read(_last_seq)
            await self.service.reconcile()
            await self.idle()
            quiet = quiet + 1 if before == (len(self.runtime.calls), await self.store.read(_last_seq)) else 0
            if quiet == 2:
                return
        raise AssertionError(f"not settled after {turns} turns; last calls {self.runtime.calls[-10:]}")

    async def idle(self) -> None:
        for _ in range(2000):
            if self.service.is_idle:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("an action does not end")

    async def later(self, **delta: float) -> None:
        """Time passes; then everything is looked at again."""
        self.clock.advance(timedelta(**delta).total_seconds())
        self.service.look_again()
        await self.settle()

    async def until(self, what: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(2000):
            if await what():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not come true")

    # What came of it

    async def row(self, contract_id: int = 51) -> WorkloadStatus:
        found = await self.store.read(lambda tx: workloads.get(tx, contract_id))
        assert found is not None, f"nothing is written of contract {contract_id}"
        return found

    async def state(self, contract_id: int = 51) -> WorkloadState:
        return (await self.row(contract_id)).state

    async def claims(self, contract_id: int = 51) -> set[Claim]:
        held = await self.store.read(claims.all_claims)
        return {claim for claim in held if claim.contract_id == contract_id}

    async def amounts(self, contract_id: int = 51) -> dict[str, int]:
        """What the ledger counts for a contract, by kind."""
        found = await self.store.read(amounts.all_amounts)
        return {one.kind.value: one.amount for one in found if (one.owner, one.owner_id) == ("contract", contract_id)}

    async def is_in(self, state: WorkloadState, contract_id: int = 51) -> bool:
        found = await self.store.read(lambda tx: workloads.get(tx, contract_id))
        return found is not None and found.state is state

    async def open_intents(self) -> list[str]:
        return [intent.kind for intent in await self.store.read(intents.open_intents)]

    async def told(self, contract_id: int = 51) -> list[str]:
        """States in the outbox, in order, repetitions left out."""
        messages = await self.store.read(lambda tx: outbox.pending(tx, 10_000))
        bodies = [json.loads(message.body) for message in messages if message.kind == "workload"]
        states = [body["state"] for body in bodies if body["contract_id"] == contract_id]
        return [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state]

    async def words(self, contract_id: int = 51) -> list[str]:
        messages = await self.store.read(lambda tx: outbox.pending(tx, 10_000))
        bodies = [json.loads(message.body) for message in messages if message.kind == "workload"]
        return [body["status_msg"] for body in bodies if body["contract_id"] == contract_id]


def contract(contract_id: int = 51, *, gpus: int = 1, **changes: Any) -> Contract:
    made = build_contract(contract_id, price_usd_per_hour=Decimal("0.40") * max(gpus, 1))
    return replace(made, spec=replace(made.spec, gpu_count=gpus), **changes)


def key_of(claim: Claim) -> tuple[str, str]:
    return (claim.kind, claim.key)


def _last_seq(tx: Any) -> int:
    return int(tx.execute("SELECT COALESCE(MAX(seq), 0) AS seq FROM outbox").fetchone()["seq"])


TCP = Protocol.TCP
