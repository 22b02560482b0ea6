"""I1, I2 and I3 against a renter, an owner, an engine and a daemon that all do what they like, in any order."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kaalia.contracts.contract import Contract, Desired, is_expired
from kaalia.errors import StoreError, WorkloadError
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState
from kaalia.reconciler import crash
from kaalia.runtime.base import ObservedState, Placement, Started
from kaalia.store import amounts, volumes
from kaalia.store.amounts import AmountKind, OwnerKind
from kaalia.store.changes import Changes
from kaalia.store.claims import all_claims
from kaalia.store.contracts import mark_missing
from kaalia.store.database import Database
from kaalia.store.intents import open_intents
from kaalia.units import GIB
from tests.reconciler.rig import IMAGE, Rig, contract
from tests.support.builders import build_report, build_volume
from tests.support.clock import FakeClock
from tests.support.fake_runtime import FakeRuntime, Faults

PICKS = st.integers(0, 3)
"""Which of the living contracts; there are four at most."""
WAYS = {"stop": Desired.STOPPED, "remove": Desired.ENDED}
FATES = [(WAYS.get(point.split(".")[0], Desired.RUNNING), point) for point in crash.POINTS]
"""A wish, and a point on the way to its fulfilment."""
DISK_BYTES = 60 * GIB
"""Three contracts of the usual size fit, and not much more."""
MUTATIONS = ("create", "start", "stop", "remove")


class WatchedRuntime(FakeRuntime):
    """Keeps a note of every verb that comes without an intent, and of every stop that nobody wished."""

    def __init__(self, clock: FakeClock, agreed: dict[int, Contract], missing: dict[int, list[datetime]]) -> None:
        super().__init__(clock)
        self._agreed = agreed
        self._missing = missing
        self.asked_to_stop: set[int] = set()
        """Contracts that were to stop at some time since they started: such a stop may be carried through."""
        self.rig: Rig | None = None

    async def create(self, placement: Placement) -> str:
        await self._need_intent("create", placement.contract.contract_id)
        return await super().create(placement)

    async def start(self, contract_id: int) -> Started:
        await self._need_intent("start", contract_id)
        if is_expired(self._agreed[contract_id], self._clock.now()):
            self.violations.append(f"start of C.{contract_id} after its end")
        self.asked_to_stop.discard(contract_id)
        return await super().start(contract_id)

    async def stop(self, contract_id: int, grace_s: float) -> None:
        await self._need_intent("stop", contract_id)
        self._need_wish("stop", contract_id)
        await super().stop(contract_id, grace_s)

    async def discard(self, contract_id: int) -> None:
        await self._need_intent("discard", contract_id)
        self._need_wish("discard", contract_id)
        if contract_id in self.running():
            self.violations.append(f"discard of C.{contract_id}, which was not stopped")
        if self._agreed[contract_id].spec.image not in self.images:
            self.violations.append(f"discard of C.{contract_id} before the image of the next one is here")
        await super().discard(contract_id)

    async def remove(self, contract_id: int) -> None:
        await self._need_intent("remove", contract_id)
        self._need_wish("remove", contract_id)
        await super().remove(contract_id)

    async def _need_intent(self, verb: str, contract_id: int) -> None:
        assert self.rig is not None
        known = await self.rig.store.read(open_intents)
        if contract_id not in {intent.contract_id for intent in known}:
            self.violations.append(f"{verb} of C.{contract_id} without an intent")

    def _need_wish(self, verb: str, contract_id: int) -> None:
        """I1: what runs is stopped for a reason that was agreed, and removed only at its end."""
        container, agreed = self.containers.get(contract_id), self._agreed[contract_id]
        if container is None or container.state is not ObservedState.RUNNING:
            return
        unheard = self._missing.get(contract_id, [])
        is_forgotten = len(unheard) >= 2 and self._clock.now() >= unheard[0] + timedelta(minutes=30)
        is_over = agreed.desired is Desired.ENDED or is_forgotten
        is_replaced = container.generation < agreed.generation
        wished = is_over or (is_replaced and verb != "remove")
        if verb == "stop":
            is_rebooted = agreed.restart_count > 0
            wished |= agreed.desired is Desired.STOPPED or is_expired(agreed, self._clock.now()) or is_rebooted
            wished |= contract_id in self.asked_to_stop
        if not wished:
            self.violations.append(f"{verb} of C.{contract_id}, which nobody wished")


class Machine(RuleBasedStateMachine):
    """One machine with two GPUs, few ports and a small disk, four contracts, one store that survives crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: None)
        self.folder = TemporaryDirectory()
        self.clock = FakeClock()
        self.agreed: dict[int, Contract] = {}
        self.missing: dict[int, list[datetime]] = {}
        self.runtime = WatchedRuntime(self.clock, self.agreed, self.missing)
        self.store = Database(Path(self.folder.name) / "state.db", Changes())
        self.do(self.store.open())

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.rig = self.do(self._rig())
        self.runtime.rig = self.rig
        report = build_report(self.clock.now())
        network = replace(report.network, port_range=replace(report.network.port_range, first=40000, last=40011))
        assert report.disk is not None
        disk = replace(report.disk, total_bytes=DISK_BYTES)
        self.do(self.rig.prepare(replace(report, network=network, disk=disk)))
        self.rent(gpus=1, hours=4, is_served=True)
        self.rent(gpus=1, hours=2, is_served=False)
        self.rent(gpus=2, hours=4, is_served=True)

    async def _rig(self) -> Rig:
        return Rig(self.store, Changes(), self.clock, self.runtime)

    # The renter

    @rule(
        gpus=st.sampled_from([1, 1, 2]),
        hours=st.integers(1, 4),
        gib=st.sampled_from([16, 16, 30]),
        is_served=st.booleans(),
    )
    def rent(self, gpus: int, hours: int, is_served: bool, gib: int = 16) -> None:
        if len(self._living()) < 4:
            end_at = self.clock.now() + timedelta(hours=hours)
            made = contract(51 + len(self.agreed), gpus=gpus, end_at=end_at)
            self._put(replace(made, spec=replace(made.spec, disk_bytes=gib * GIB)))
        if is_served:
            self.turns(2)

    @rule(pick=PICKS, desired=st.sampled_from([Desired.RUNNING, Desired.STOPPED]), is_served=st.booleans())
    def wish(self, pick: int, desired: Desired, is_served: bool) -> None:
        self._change(pick, desired=desired)
        if is_served:
            self.turns(1)

    @rule(pick=PICKS)
    def destroy(self, pick: int) -> None:
        self._change(pick, desired=Desired.ENDED)

    @rule(pick=PICKS)
    def reboot_instance(self, pick: int) -> None:
        self._change(pick, restart_count=self._pick(pick).restart_count + 1)

    @rule(pick=PICKS)
    def recycle(self, pick: int) -> None:
        self._change(pick, generation=self._pick(pick).generation + 1)

    @rule(volume_id=st.integers(901, 903), gib=st.integers(1, 40), is_lucky=st.booleans())
    def volume_moves_on(self, volume_id: int, gib: int, is_lucky: bool) -> None:
        """A volume is made, when it fits, and ends, in the store that the contracts use."""

        def work(tx: Any) -> None:
            stored = volumes.get(tx, volume_id)
            if stored is None or stored.status is None or stored.status.state is VolumeState.ENDED:
                volumes.upsert(tx, build_volume(volume_id, gib * GIB))
                state = VolumeState.CREATING
            elif stored.status.state is VolumeState.CREATING:
                state = VolumeState.READY if is_lucky else VolumeState.FAILED
            else:
                is_going = stored.status.state is VolumeState.REMOVING
                state = VolumeState.ENDED if is_going else VolumeState.REMOVING
            volumes.put_status(tx, VolumeStatus(volume_id, state, self.clock.now()), self.clock.now())

        with suppress(StoreError):
            self.do(self.store.transaction(work))

    @rule(pick=PICKS, hours=st.integers(1, 4))
    def extend(self, pick: int, hours: int) -> None:
        self._change(pick, end_at=self.clock.now() + timedelta(hours=hours))

    def _living(self) -> list[Contract]:
        return [one for one in self.agreed.values() if one.desired is not Desired.ENDED]

    def _pick(self, pick: int) -> Contract:
        living = self._living() or list(self.agreed.values())
        return living[pick % len(living)]

    def _change(self, pick: int, **changes: Any) -> None:
        if not self._living():
            return
        before = self._pick(pick)
        if before.desired is Desired.STOPPED or is_expired(before, self.clock.now()):
            self.runtime.asked_to_stop.add(before.contract_id)
        self._put(replace(before, **changes))

    def _put(self, made: Contract) -> None:
        self.agreed[made.contract_id] = made
        self.missing.pop(made.contract_id, None)
        self.do(self.rig.put(made))

    # The marketplace

    @rule(pick=PICKS, times=st.integers(1, 2), minutes=st.sampled_from([1, 31]))
    def leave_out(self, pick: int, times: int, minutes: int) -> None:
        """A contract is missing in newer snapshots for a while."""
        contract_id = self._pick(pick).contract_id
        for _ in range(times):
            self.do(self.store.transaction(lambda tx: mark_missing(tx, contract_id, self.clock.now())))
            self.missing.setdefault(contract_id, []).append(self.clock.now())
        self.time_passes(minutes * 60.0, is_spoken=True)

    # The world

    @rule(pick=PICKS, code=st.sampled_from([0, 1, 137]))
    def process_ends(self, pick: int, code: int) -> None:
        contract_id = self._pick(pick).contract_id
        if contract_id in self.runtime.running():
            self.runtime.exit(contract_id, code)

    @rule(pick=PICKS)
    def owner_removes(self, pick: int) -> None:
        contract_id = self._pick(pick).contract_id
        if contract_id in self.runtime.containers:
            self.runtime.vanish(contract_id)

    @rule(verb=st.sampled_from([*MUTATIONS, "pull"]))
    def lose_an_answer(self, verb: str) -> None:
        self.runtime.faults.answer_lost.add(verb)

    @rule(ports=st.sets(st.integers(40000, 40011), max_size=3))
    def foreign_program_listens(self, ports: set[int]) -> None:
        used = {port.host_port for one in self.runtime.running().values() for port in one.ports}
        self.runtime.faults.foreign_ports = ports - used

    @rule()
    def image_is_pruned(self) -> None:
        self.runtime.images.pop(IMAGE, None)

    @rule()
    def process_ends_at_once(self) -> None:
        self.runtime.faults.exit_at_start = 1

    @rule()
    def gpu_hook_fails(self) -> None:
        self.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start: no GPUs")
        self.turns(1)
        self.runtime.faults.refuse_start = None

    @rule(turns=st.integers(0, 2), ends_all=st.booleans())
    def engine_is_away(self, turns: int, ends_all: bool) -> None:
        self.runtime.go_down()
        self.turns(turns)
        if ends_all:
            self.runtime.reboot(exit_code=137)
        self.clock.advance(5)
        self.runtime.come_up()

    @rule()
    def machine_reboots(self) -> None:
        self.runtime.reboot()
        self.clock.advance(30)
        self.do(self.rig.restart(booted_days_ago=10 / 86400))

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0, 3600.0]), is_spoken=st.booleans())
    def time_passes(self, seconds: float, is_spoken: bool) -> None:
        self.clock.advance(seconds)
        if is_spoken:
            self.do(self.rig.speak())
        self.turns(1)

    # The daemon

    @rule(turns=st.integers(1, 3))
    def turns(self, turns: int) -> None:
        for _ in range(turns):
            self.do(self._turn())

    @rule(pick=PICKS, fate=st.sampled_from(FATES))
    def wish_and_crash(self, pick: int, fate: tuple[Desired, str]) -> None:
        desired, point = fate
        self._change(pick, desired=desired)
        self.crash(point)

    @rule(point=st.sampled_from(crash.POINTS))
    def crash(self, point: str) -> None:
        self.rig.crash_at = point
        self.do(self._turn())
        self.rig.crash_at = None
        self.do(self.rig.restart())

    @rule()
    def die_anywhere(self) -> None:
        self.do(self._half_a_turn())
        self.do(self.rig.restart())

    async def _turn(self) -> None:
        self.rig.service.look_again()
        await self.rig.service.reconcile()
        await self.rig.idle()

    async def _half_a_turn(self) -> None:
        self.rig.service.look_again()
        await self.rig.service.reconcile()
        await asyncio.sleep(0.001)

    # What always holds

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.runtime.violations == []

    @invariant()
    def what_runs_owns_what_it_uses(self) -> None:
        held = {(claim.kind, claim.key): claim.contract_id for claim in self.do(self.store.read(all_claims))}
        for one in self.runtime.running().values():
            for uuid in one.gpu_uuids:
                assert held.get(("gpu", uuid)) == one.contract_id, one
            for port in one.ports:
                assert held.get((f"port/{port.protocol}", str(port.host_port))) == one.contract_id, one

    @invariant()
    def no_byte_has_two_owners(self) -> None:
        assert self.do(self.store.read(lambda tx: amounts.total(tx, AmountKind.DISK))) <= DISK_BYTES

    @invariant()
    def what_exists_has_its_bytes_and_what_runs_its_shares(self) -> None:
        found = self.do(self.store.read(amounts.all_amounts))
        held = {(one.kind, one.owner_id): one.amount for one in found if one.owner is OwnerKind.CONTRACT}
        for one in self.runtime.containers.values():
            assert held.get((AmountKind.DISK, one.contract_id)) == self.agreed[one.contract_id].spec.disk_bytes, one
        for one in self.runtime.running().values():
            assert {(AmountKind.CPU, one.contract_id), (AmountKind.RAM, one.contract_id)} <= held.keys(), one

    def teardown(self) -> None:
        """In the end, with engine and daemon well, everything is as it was wished."""
        try:
            if hasattr(self, "rig"):
                self.runtime.faults = Faults()
                self.do(self._settle_down())
                self.do(self.rig.service.detach())
        finally:
            self.do(self.store.close())
            self.loop.close()
            self.folder.cleanup()

    async def _settle_down(self) -> None:
        await self.rig.speak()
        for _ in range(3):
            await self.rig.later(seconds=120)
        assert self.runtime.violations == []
        assert await self.rig.open_intents() == []
        for agreed in self.agreed.values():
            await self._check_end(agreed)

    async def _check_end(self, agreed: Contract) -> None:
        row = await self.rig.row(agreed.contract_id)
        is_running = agreed.contract_id in self.runtime.running()
        assert (row.state is WorkloadState.RUNNING) == is_running, row
        assert (row.container_id is None) == (agreed.contract_id not in self.runtime.containers), row
        if agreed.desired is Desired.ENDED:
            assert row.state is WorkloadState.ENDED, row
        if row.container_id is None:
            assert await self.rig.claims(agreed.contract_id) == set(), row
            assert await self.rig.amounts(agreed.contract_id) == {}, row
        if agreed.desired is not Desired.RUNNING or is_expired(agreed, self.clock.now()):
            assert not is_running, row


TestInvariants = Machine.TestCase
TestInvariants.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
