"""Fetches the desired state and stores it, signed as it came, before anybody acts upon it.

Refuses, and changes nothing for: a signature of a key that was not enrolled (`document_forged`), another machine's
snapshot (`snapshot_foreign`), a part of one (`snapshot_incomplete`), one that is not newer (`snapshot_stale`).
A contract that a snapshot does not mention is marked as missing, never ended here: ending is the reconciler's
decision, by rule.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from kaalia.clock import Clock
from kaalia.contracts import relay as relay_rules
from kaalia.contracts.admission import House
from kaalia.contracts.amendment import amended
from kaalia.contracts.contract import Contract
from kaalia.contracts.local import is_local
from kaalia.contracts.policy import OPEN, Policy
from kaalia.contracts.volume import Volume
from kaalia.errors import KaaliaError, MarketplaceError, Problem, UnauthorizedError, UnreachableError
from kaalia.model.health import Condition, Severity
from kaalia.model.volume import VolumeState
from kaalia.model.workload import WorkloadState
from kaalia.store import (
    conditions,
    contracts,
    ends,
    enrolment,
    machine,
    maintenance,
    relays,
    standing,
    tasks,
    volumes,
    workloads,
)
from kaalia.store.changes import Topic
from kaalia.store.contracts import StoredContract
from kaalia.store.database import Database, Transaction
from kaalia.store.enrolment import AcceptedSnapshot, Enrolment
from kaalia.sync.backoff import Backoff
from kaalia.sync.client import MarketplaceClient
from kaalia.wire import document, signature
from kaalia.wire.protocol import LONG_POLL_S, Envelope, Snapshot

log = logging.getLogger(__name__)

RENEW_BEFORE = timedelta(minutes=30)
"""A snapshot lives an hour; when this little is left, the same revision is asked for anew."""
TASKS_KEPT = timedelta(days=1)
CONDITIONS = "contracts"
"""The source of what is wrong with a marketplace's word on contracts that the machine knows."""
_QUICK_S = 1.0
LOST_AFTER_S = 5.0
"""A long-poll that ends so late without an answer was cut off: by a marketplace that went, or by a new address."""
_SOURCE = "sync"
"""Of the conditions that are found here."""


class Pull:
    """The long-poll."""

    def __init__(
        self,
        database: Database,
        client: MarketplaceClient,
        clock: Clock,
        member: Enrolment,
        backoff: Backoff,
        policy: Policy = OPEN,
        lost: Callable[[], None] = lambda: None,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        """`lost` is called when a connection that waited for news is gone, after waiting for `lost_after_s`."""
        self._database = database
        self._client = client
        self._clock = clock
        self._member = member
        self._backoff = backoff
        self._policy = policy
        self._lost = lost
        self._lost_after_s = lost_after_s

    async def turn(self) -> None:
        await self._backoff.guard("desired state", self.poll)

    async def poll(self) -> None:
        """A refusal that trying again does not heal, such as `machine_deleted`, is for a person to see."""
        try:
            await self.once()
        except UnauthorizedError as error:
            await self._tell(error.problem)
            raise
        await self._tell(None)

    async def _tell(self, problem: Problem | None) -> None:
        known = await self._database.read(conditions.all_open)
        told = [one.condition.problem for one in known if one.source == _SOURCE]
        found = [] if problem is None else [problem]
        if [one.code for one in told] != [one.code for one in found]:
            wrong = [Condition(one, Severity.CRITICAL, "the marketplace answers this machine again") for one in found]
            now = self._clock.now()
            await self._database.transaction(lambda tx: conditions.replace(tx, _SOURCE, wrong, now))

    async def once(self, wait_s: float = LONG_POLL_S) -> None:
        """One long-poll, and its snapshot accepted. Raises MarketplaceError."""
        known = await self._database.read(enrolment.get_snapshot)
        fresh = known is not None and self._clock.now() < known.not_after - RENEW_BEFORE
        epoch, revision = (known.epoch, known.revision) if known is not None and fresh else (0, 0)
        loop = asyncio.get_running_loop()
        asked_at_s = loop.time()
        try:
            envelope = await self._client.desired(epoch, revision, wait_s)
        except UnreachableError:
            if loop.time() - asked_at_s >= self._lost_after_s:
                self._lost()
            raise
        if envelope is not None:
            await self.accept(envelope)
        elif wait_s > _QUICK_S and loop.time() - asked_at_s < _QUICK_S:
            await asyncio.sleep(_QUICK_S)  # something on the way does not hold requests

    async def accept(self, envelope: Envelope) -> None:
        """Verify and store. Raises MarketplaceError with one of the codes above, or `snapshot_invalid`."""
        payload = signature.verify_document(envelope, self._member.marketplace_keys)
        snapshot = _decoded(payload)
        _check(snapshot, self._member.machine_id)
        text, now = document.encode(envelope), self._clock.now()
        house = House(snapshot.listing, self._policy, None)
        topics = (Topic.CONTRACTS, Topic.TASKS)
        await self._database.transaction(lambda tx: store(tx, snapshot, text, now, house), *topics)


def store(tx: Transaction, snapshot: Snapshot, envelope: str, now: datetime, house: House) -> None:
    """Everything a snapshot says, or nothing; of known contracts what the owner's side allows.

    Raises MarketplaceError `snapshot_stale`.
    """
    is_renewal = _is_renewal(enrolment.get_snapshot(tx), snapshot)
    enrolment.put_snapshot(tx, AcceptedSnapshot(snapshot.epoch, snapshot.revision, snapshot.not_after, envelope, now))
    if is_renewal:
        return
    known = {stored.contract.contract_id: stored for stored in contracts.all_contracts(tx)}
    unheard = {contract_id for contract_id, stored in known.items() if stored.origin == contracts.MARKETPLACE}
    refused: list[Condition] = []
    for contract in snapshot.contracts:
        if _put(tx, contract, known.get(contract.contract_id), now, house, refused):
            unheard.discard(contract.contract_id)
    conditions.replace(tx, CONDITIONS, refused, now)
    for contract_id in unheard:
        _miss(tx, contract_id, now)
    ends.keep(tx, now, have_moved=any(_is_moved(contract, known) for contract in snapshot.contracts))
    _put_volumes(tx, snapshot.volumes)
    machine.put_listing(tx, snapshot.listing)
    maintenance.put_windows(tx, snapshot.maintenances)
    if snapshot.relays is not None:
        relays.put_links(tx, relay_rules.kept(relays.links(tx), snapshot.relays, unheard))
    if snapshot.standing is not None:
        standing.put(tx, snapshot.standing, now)
    for task in snapshot.tasks:
        tasks.add_new(tx, task, now)
    tasks.forget_older(tx, now - TASKS_KEPT)


def _decoded(payload: str) -> Snapshot:
    try:
        return document.decode(Snapshot, payload)
    except KaaliaError as error:
        raise MarketplaceError(
            "snapshot_invalid",
            f"cannot accept the desired state: {error.problem.message}",
            remedy="the marketplace is of a newer version: update kaalia",
        ) from error


def _check(snapshot: Snapshot, machine_id: int) -> None:
    if snapshot.machine_id != machine_id:
        raise MarketplaceError(
            "snapshot_foreign",
            f"cannot accept the desired state: it is for machine {snapshot.machine_id}, this is {machine_id}",
        )
    if not snapshot.complete:
        raise MarketplaceError(
            "snapshot_incomplete", f"cannot accept the desired state: revision {snapshot.revision} is not complete"
        )


def _is_renewal(known: AcceptedSnapshot | None, snapshot: Snapshot) -> bool:
    """True for the accepted revision with a later `not_after`: nothing else of it is new."""
    if known is None or (snapshot.epoch, snapshot.revision) > (known.epoch, known.revision):
        return False
    is_same = (snapshot.epoch, snapshot.revision) == (known.epoch, known.revision)
    if is_same and snapshot.not_after > known.not_after:
        return True
    raise MarketplaceError(
        "snapshot_stale",
        f"cannot accept the desired state: revision {snapshot.revision} of epoch {snapshot.epoch} is not newer than "
        f"revision {known.revision} of epoch {known.epoch}",
        remedy="if the marketplace was restored from a copy, its operator must give it a greater epoch",
    )


def _put(
    tx: Transaction,
    contract: Contract,
    known: StoredContract | None,
    now: datetime,
    house: House,
    refused: list[Condition],
) -> bool:
    """Write a contract. False: the known one of that id is another agreement, which was not mentioned.

    Of a known one only what `amendment` allows is taken; `refused` gets the rest.

    A tombstone of a contract that is not known is stored like any other: the reconciler proves that nothing of it
    is left and reports it ended, so that the marketplace can forget it.
    """
    if is_local(contract.contract_id):
        log.error("contract_number_local: %d is for contracts of the machine's own; not taken", contract.contract_id)
        return False
    if known is not None:
        old = known.contract
        if contract.generation < old.generation:
            log.error("generation_older: contract %d stays at generation %d", old.contract_id, old.generation)
            return True
        if known.origin != contracts.MARKETPLACE or (
            contract.generation == old.generation and contract.spec != old.spec
        ):
            # Specs are immutable: this id was given twice, as by a marketplace that lost its history.
            log.error("spec_changed: contract %d is another one than the one known here; not taken", old.contract_id)
            return False
        contract, problems = amended(old, contract, house, now)
        for problem in problems:
            log.error("%s: %s", problem.code, problem.message)
            refused.append(_condition(problem, contract.contract_id))
    contracts.upsert(tx, contract, now)
    return True


def _is_moved(contract: Contract, known: Mapping[int, StoredContract]) -> bool:
    """A known contract got another end."""
    stored = known.get(contract.contract_id)
    return stored is not None and stored.contract.end_at != contract.end_at


def _condition(problem: Problem, contract_id: int) -> Condition:
    clears_when = "when the marketplace tells what was agreed, or when the contract has ended"
    return Condition(problem, Severity.WARN, clears_when, scope=f"C.{contract_id}")


def _put_volumes(tx: Transaction, told: tuple[Volume, ...]) -> None:
    """One that is not mentioned stays: only a tombstone removes data. It is forgotten when it is gone."""
    known = {stored.volume.volume_id: stored for stored in volumes.all_volumes(tx)}
    for volume in told:
        stored = known.pop(volume.volume_id, None)
        if stored and (stored.volume.key, stored.volume.size_bytes) != (volume.key, volume.size_bytes):
            # This id was given twice, as by a marketplace that lost its history: the data are somebody else's.
            log.error("volume_changed: volume %d is another one than the one known here; not taken", volume.volume_id)
            continue
        volumes.upsert(tx, volume)
    for volume_id, stored in known.items():
        if stored.status is not None and stored.status.state is VolumeState.ENDED:
            volumes.delete(tx, volume_id)


def _miss(tx: Transaction, contract_id: int, now: datetime) -> None:
    status = workloads.get(tx, contract_id)
    if status is not None and status.state is WorkloadState.ENDED:
        contracts.delete(tx, contract_id)
        workloads.delete(tx, contract_id)
        return
    log.warning("contract_missing: the marketplace did not mention contract %d; it runs on for now", contract_id)
    contracts.mark_missing(tx, contract_id, now)
