"""The reconciler's books: one durable transaction for everything that belongs together, then the bells.

Status row and message to the marketplace, intent, claims taken and given back: all of it or nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from kaalia.clock import Clock
from kaalia.contracts import fitness, metering
from kaalia.contracts.contract import Contract
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.disk import Overrun
from kaalia.contracts.fitness import Fault
from kaalia.contracts.local import is_local
from kaalia.contracts.maintenance import Window
from kaalia.contracts.metering import Proof, Seen
from kaalia.contracts.offer import Listing
from kaalia.model.certificate import Certificate
from kaalia.model.health import Condition
from kaalia.model.machine import MachineReport
from kaalia.model.metering import Edge, Meter
from kaalia.model.workload import PortBinding, Protocol, WorkloadStatus
from kaalia.reconciler import quantities
from kaalia.reconciler.actions import Frees
from kaalia.runtime.base import Observed, ObservedState
from kaalia.store import (
    amounts,
    certificates,
    claims,
    conditions,
    contracts,
    disk,
    ends,
    enrolment,
    images,
    intents,
    journal,
    machine,
    maintenance,
    outbox,
    volumes,
    workloads,
)
from kaalia.store.amounts import Amount, OwnerKind
from kaalia.store.changes import Topic
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.contracts import StoredContract
from kaalia.store.database import Database, Transaction
from kaalia.store.ends import Ends
from kaalia.store.enrolment import AcceptedSnapshot
from kaalia.store.intents import Intent
from kaalia.store.maintenance import StoredCordon
from kaalia.wire.document import adapter
from kaalia.wire.protocol import MessageKind

_STATUS = adapter(WorkloadStatus)
_CONDITIONS = "containers"
_FREED = {Frees.NOTHING: (), Frees.GPUS: (ClaimKind.GPU,), Frees.ALL: tuple(ClaimKind)}
_PORT_KINDS = {Protocol.TCP: ClaimKind.PORT_TCP, Protocol.UDP: ClaimKind.PORT_UDP}


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that one turn decides from, read at one moment."""

    contracts: tuple[StoredContract, ...]
    workloads: Mapping[int, WorkloadStatus]
    claims: tuple[Claim, ...]
    intents: tuple[Intent, ...]
    report: MachineReport | None
    listing: Listing | None
    snapshot: AcceptedSnapshot | None
    volume_bytes: int = 0
    """Disk that volumes have."""
    amounts: tuple[Amount, ...] = ()
    windows: tuple[Window, ...] = ()
    cordon: StoredCordon | None = None
    overruns: Mapping[int, Overrun] = field(default_factory=dict)
    certificates: Mapping[int, Certificate] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    """What keeps parts of the machine from being rented anew."""
    lost_inside: Mapping[int, datetime] = field(default_factory=dict)
    """Contracts whose containers may not use their GPUs any more, and since when."""

    def start_counts(self, contract_id: int) -> tuple[int, ...]:
        """The reboots that each open intent to start this contract carries out, oldest first."""
        counts = (one.restart_count for one in self.intents if one.contract_id == contract_id)
        return tuple(count for count in counts if count is not None)


@dataclass(frozen=True, slots=True)
class Boot:
    """This boot of the machine; blank where the kernel does not say."""

    boot_id: str = ""
    booted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a launch gets: GPUs and ports stand in the status."""

    status: WorkloadStatus
    subnet: str


class Ledger:
    """Every write of the reconciler goes through here. What it counts is written with the change that it counts."""

    def __init__(self, database: Database, clock: Clock, boot: Boot | None = None) -> None:
        self._database = database
        self._clock = clock
        self._boot = boot or Boot()

    async def books(self) -> Books:
        return await self._database.read(_read)

    async def asked_restarts(self, contract: Contract) -> int:
        """Of the contract by now."""
        newest = await self._database.read(lambda tx: contracts.get(tx, contract.contract_id))
        return contract.restart_count if newest is None else newest.restart_count

    async def subnets(self) -> frozenset[str]:
        """Those that contracts have."""
        held = await self._database.read(claims.all_claims)
        return frozenset(claim.key for claim in held if claim.kind is ClaimKind.SUBNET)

    async def recorded_ends(self) -> Ends:
        """For containers that the books do not know: the ends that were written down beside them."""
        return await self._database.read(ends.recorded_here)

    async def obey(self, cordon: Cordon) -> None:
        """Nothing new is begun from now on, and what was begun stands in the books."""
        now = self._clock.now()
        await self._database.transaction(lambda tx: maintenance.obey_cordon(tx, cordon, now))

    async def intend(
        self,
        kind: str,
        status: WorkloadStatus,
        gpu_uuids: tuple[str, ...] | None = None,
        sight: Observed | None = None,
        restart_count: int | None = None,
    ) -> None:
        """Before a side effect: the intent, the GPUs it takes (None: leave them), and the status that says so.

        With GPUs come disk, CPU and memory. `sight`: the container as it was seen last.
        `restart_count`: of the contract, when something is to be started.

        Raises StoreError claim_taken or claim_exceeds; then nothing is written.
        """

        def work(tx: Transaction) -> None:
            now = self._clock.now()
            if gpu_uuids is not None:
                claims.release(tx, status.contract_id, (ClaimKind.GPU,))
                claims.claim(tx, gpu_claims(status.contract_id, status.generation, gpu_uuids), now)
                _claim_amounts(tx, status, now)
            intents.open_intent(tx, kind, status.contract_id, status.generation, now, restart_count)
            self._put(tx, status, sight=sight)

        await self._database.transaction(work, Topic.WORKLOADS, Topic.OUTBOX)

    async def grant(self, kind: str, decide: Callable[[tuple[Claim, ...]], Grant], restart_count: int) -> Grant:
        """As `intend`, for a contract without a container: ports and subnet are chosen from what is free right now.

        `decide` gets all claims and runs on the store's thread, so that no two contracts choose the same.
        The marketplace is told a moment later: a launch of an image that is here has better news by then.
        """

        def work(tx: Transaction) -> Grant:
            now = self._clock.now()
            grant = decide(claims.all_claims(tx))
            status = grant.status
            ids = (status.contract_id, status.generation)
            subnet = Claim(ClaimKind.SUBNET, grant.subnet, *ids)
            claims.release(tx, status.contract_id)
            claims.claim(tx, (*gpu_claims(*ids, status.gpu_uuids), *port_claims(*ids, status.ports), subnet), now)
            _claim_amounts(tx, status, now)
            intents.open_intent(tx, kind, *ids, now, restart_count)
            self._put(tx, status)
            return grant

        return await self._database.transaction(work, Topic.WORKLOADS, ring_later=Topic.OUTBOX)

    async def settle(
        self,
        status: WorkloadStatus,
        frees: Frees = Frees.NOTHING,
        outcome: str = "done",
        sight: Observed | None = None,
    ) -> None:
        """After a side effect, or after a look: intents of the contract closed, claims given back, the status told."""

        def work(tx: Transaction) -> None:
            intents.close_all(tx, status.contract_id, outcome, self._clock.now())
            claims.release(tx, status.contract_id, _FREED[frees])
            amounts.release(tx, OwnerKind.CONTRACT, status.contract_id, quantities.FREED[frees])
            self._put(tx, status, sight=sight)

        await self._database.transaction(work, Topic.WORKLOADS, Topic.OUTBOX)

    async def tell(self, statuses: Iterable[WorkloadStatus]) -> None:
        """Statuses alone: progress, or the same news again."""
        told = tuple(statuses)
        if told:
            await self._database.transaction(lambda tx: self._put(tx, *told), Topic.WORKLOADS, Topic.OUTBOX)

    async def is_private(self, *names: str) -> bool:
        """An image of one of these references or ids came by a registry login."""
        return await self._database.read(lambda tx: images.any_private(tx, names))

    async def mark_private(self, *names: str) -> None:
        await self._database.transaction(lambda tx: images.add_private(tx, names))

    async def mark_public(self, *names: str) -> None:
        await self._database.transaction(lambda tx: images.delete_private(tx, names))

    async def mark_pulled(self, image_id: str, reference: str) -> None:
        """kaalia brought this image here, and may remove it again."""
        pulled = images.PulledImage(image_id, reference, self._clock.now())
        await self._database.transaction(lambda tx: images.put_pulled(tx, pulled))

    async def hold(self, wanted: Iterable[Claim], sizes: Iterable[Amount] = ()) -> None:
        """Claims for what was found running, next to those that the books have. What exists is not refused."""
        taken, counted = tuple(wanted), tuple(sizes)

        def work(tx: Transaction) -> None:
            claims.claim(tx, taken, self._clock.now())
            amounts.claim(tx, counted, self._clock.now())

        await self._database.transaction(work)

    async def hold_subnets(self, found: Mapping[str, Claim]) -> None:
        """Subnets of networks that were found, by the container they were found with: while the books still have it."""

        def work(tx: Transaction) -> None:
            busy = {intent.contract_id for intent in intents.open_intents(tx)}
            for container_id, claim in found.items():
                row = workloads.get(tx, claim.contract_id)
                if row is not None and row.container_id == container_id and claim.contract_id not in busy:
                    claims.claim(tx, [claim], self._clock.now())

        await self._database.transaction(work)

    async def close_intents(self, contract_ids: Iterable[int]) -> None:
        """Reality was looked at, and there is nothing left to do."""
        found = tuple(contract_ids)

        def work(tx: Transaction) -> None:
            for contract_id in found:
                intents.close_all(tx, contract_id, "found settled", self._clock.now())

        await self._database.transaction(work)

    async def forget(self, contract_ids: Iterable[int]) -> None:
        """No contract and no container any more: nothing of it stays."""
        gone = tuple(contract_ids)

        def work(tx: Transaction) -> None:
            for contract_id in gone:
                claims.release(tx, contract_id)
                amounts.release(tx, OwnerKind.CONTRACT, contract_id)
                intents.close_all(tx, contract_id, "contract forgotten", self._clock.now())
                workloads.delete(tx, contract_id)
            still = [start for start in journal.open_starts(tx) if start.meter is not Meter.VOLUME]
            left = [start for start in still if start.contract_id in gone]
            journal.count(tx, metering.closing(left, self._clock.now(), "forgotten"), self._clock.now())

        await self._database.transaction(work, Topic.WORKLOADS)

    async def prove_life(self, wrong: Iterable[Condition] = ()) -> None:
        """The engine has listed what runs. After a boot, what was counted until then ends where it was last seen.

        `wrong`: all that the list shows to be wrong.
        """
        boot, now, found = self._boot, self._clock.now(), tuple(wrong)

        def work(tx: Transaction) -> bool:
            conditions.replace(tx, _CONDITIONS, found, now)
            known = journal.proof_of_life(tx)
            still = journal.open_starts(tx)
            if not still and known is not None and known.boot_id == boot.boot_id:
                return False
            is_new = known is not None and boot.boot_id not in ("", known.boot_id)
            if is_new and known is not None and boot.booted_at is not None:
                journal.count(tx, metering.boot_edges(still, known.proven_at, min(boot.booted_at, now)), now)
            journal.prove_life(tx, now, boot.boot_id)
            return is_new

        await self._database.transaction(work, ring_later=Topic.OUTBOX)

    def _put(self, tx: Transaction, *statuses: WorkloadStatus, sight: Observed | None = None) -> None:
        for seen in statuses:
            known = workloads.get(tx, seen.contract_id)
            # The wall clock may go back. Statuses are ordered by their times, so an earlier one would not be heard.
            status = seen if known is None else replace(seen, as_of=max(seen.as_of, known.as_of))
            workloads.put(tx, status)
            if is_local(status.contract_id):
                continue  # no marketplace knows it, and nobody pays for it
            self._measure(tx, status, sight)
            outbox.add(tx, MessageKind.WORKLOAD, _STATUS.dump_json(status).decode(), self._clock.now())

    def _measure(self, tx: Transaction, status: WorkloadStatus, sight: Observed | None) -> None:
        run, disk = (journal.standing(tx, status.contract_id, meter) for meter in (Meter.RUN, Meter.DISK))
        agreed = contracts.get(tx, status.contract_id)
        known = journal.proof_of_life(tx)
        proof = Proof(known.proven_at if known else None, self._boot.booted_at)
        seen = None if sight is None else _seen(sight)
        disk_bytes = 0 if agreed is None else agreed.spec.disk_bytes
        found = metering.edges(run, disk, status, seen, disk_bytes, proof)
        # Without a contract nothing is owed: then only what was begun ends.
        journal.count(tx, found if agreed else [one for one in found if one.edge is Edge.END], self._clock.now())


def _seen(observed: Observed) -> Seen:
    is_running = observed.state in (ObservedState.RUNNING, ObservedState.RESTARTING)
    return Seen(is_running, observed.started_at, observed.finished_at)


def claim_kind_of(protocol: Protocol) -> ClaimKind:
    return _PORT_KINDS[protocol]


def gpu_claims(contract_id: int, generation: int, gpu_uuids: Iterable[str]) -> tuple[Claim, ...]:
    return tuple(Claim(ClaimKind.GPU, uuid, contract_id, generation) for uuid in gpu_uuids)


def port_claims(contract_id: int, generation: int, ports: Iterable[PortBinding]) -> tuple[Claim, ...]:
    return tuple(Claim(_PORT_KINDS[p.protocol], str(p.host_port), contract_id, generation) for p in ports)


def claims_of(observed: Observed, holds_gpus: bool) -> tuple[Claim, ...]:
    """What a container proves to be in use. Its GPUs only count while it can use them."""
    gpus = gpu_claims(observed.contract_id, observed.generation, observed.gpu_uuids) if holds_gpus else ()
    return (*gpus, *port_claims(observed.contract_id, observed.generation, observed.ports))


def _claim_amounts(tx: Transaction, status: WorkloadStatus, now: datetime) -> None:
    agreed, report = contracts.get(tx, status.contract_id), machine.get_report(tx)
    if agreed is not None:
        wanted = quantities.of_contract(agreed, status.generation, report, may_run=True)
        amounts.claim(tx, wanted, now, quantities.limits(report))


def taken_ports(held: Iterable[Claim], but_of: int) -> set[tuple[int, Protocol]]:
    """Host ports of all contracts but one."""
    protocols = {kind: protocol for protocol, kind in _PORT_KINDS.items()}
    return {(int(c.key), protocols[c.kind]) for c in held if c.kind in protocols and c.contract_id != but_of}


def _read(tx: Transaction) -> Books:
    found = conditions.all_open(tx)
    return Books(
        contracts=contracts.all_contracts(tx),
        workloads=workloads.all_workloads(tx),
        claims=claims.of_contracts(tx),
        intents=intents.open_intents(tx),
        report=machine.get_report(tx),
        listing=machine.get_listing(tx),
        snapshot=enrolment.get_snapshot(tx),
        volume_bytes=volumes.held_bytes(tx),
        amounts=amounts.all_amounts(tx),
        windows=maintenance.windows(tx),
        cordon=maintenance.get_cordon(tx),
        overruns=disk.overruns(tx),
        certificates=certificates.all_certificates(tx),
        faults=fitness.faults(found),
        lost_inside=fitness.lost_inside(found),
    )
