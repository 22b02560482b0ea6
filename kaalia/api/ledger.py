"""The ledger as one document, read from the store in one transaction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from kaalia.contracts.slicing import reserve_bytes
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadStatus
from kaalia.store import amounts, claims, disk, machine, volumes, workloads
from kaalia.store.amounts import Amount, AmountKind, OwnerKind
from kaalia.store.claims import MACHINE, Claim, ClaimKind
from kaalia.store.database import Transaction
from kaalia.wire.ledger import LedgerDocument, LedgerRow, LedgerView, Resource

FREE, UNKNOWN = "free", "unknown"
_LETTERS = {OwnerKind.CONTRACT: "C", OwnerKind.VOLUME: "V"}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Everything that the document is made of."""

    claims: tuple[tuple[Claim, datetime], ...]
    amounts: tuple[tuple[Amount, datetime], ...]
    workloads: Mapping[int, WorkloadStatus]
    volume_states: Mapping[int, str]
    used: Mapping[str, int]
    report: MachineReport | None

    def of(self, *kinds: ClaimKind) -> list[tuple[Claim, datetime]]:
        return [(claim, since) for claim, since in self.claims if claim.kind in kinds]

    def state(self, owner: OwnerKind, owner_id: int) -> str:
        if owner is OwnerKind.VOLUME:
            return self.volume_states.get(owner_id, UNKNOWN)
        status = self.workloads.get(owner_id)
        return status.state.value if status else UNKNOWN


def read(tx: Transaction, now: datetime) -> LedgerDocument:
    measured = disk.get_ledger(tx)
    rows = _Rows(
        claims=claims.with_times(tx),
        amounts=amounts.with_times(tx),
        workloads=workloads.all_workloads(tx),
        volume_states={one.volume_id: one.state.value for one in volumes.all_statuses(tx)},
        used={entry.name: entry.size_bytes for entry in measured.entries} if measured else {},
        report=machine.get_report(tx),
    )
    return LedgerDocument(now, tuple(view(rows) for view in _VIEWS))


def _gpus(rows: _Rows) -> LedgerView:
    seen = {gpu.uuid: gpu.name for gpu in rows.report.gpus} if rows.report else {}
    held = {claim.key: (claim, since) for claim, since in rows.of(ClaimKind.GPU)}
    found = []
    for uuid in [*seen, *sorted(held.keys() - seen.keys())]:
        detail = seen.get(uuid, "not seen by the driver")
        found.append(_thing(rows, *held[uuid], detail) if uuid in held else _free(uuid, detail=detail))
    total = len(seen) if rows.report else None
    return LedgerView(Resource.GPU, len(held), total, _left(total, len(held.keys() & seen.keys())), tuple(found))


def _ports(rows: _Rows) -> LedgerView:
    held = sorted(rows.of(ClaimKind.PORT_TCP, ClaimKind.PORT_UDP), key=lambda one: (int(one[0].key), one[0].kind))
    inside = {
        (str(port.host_port), str(port.protocol)): str(port.container_port)
        for status in rows.workloads.values()
        for port in status.ports
    }
    found = [_thing(rows, claim, since, inside.get(_port(claim), "")) for claim, since in held]
    if rows.report is None:
        return LedgerView(Resource.PORTS, len(found), None, None, tuple(found))
    reach = rows.report.network.port_range
    taken = {int(claim.key) for claim, _ in held}
    free = len(reach) - sum(number in reach for number in taken)
    found.append(_free(f"{reach.first}-{reach.last}", free))
    return LedgerView(Resource.PORTS, len(taken), len(reach), free, tuple(found))


def _subnets(rows: _Rows) -> LedgerView:
    found = tuple(_thing(rows, claim, since, "") for claim, since in rows.of(ClaimKind.SUBNET))
    return LedgerView(Resource.SUBNETS, len(found), None, None, found)


def _disk(rows: _Rows) -> LedgerView:
    space = rows.report.disk if rows.report else None
    if space is None:
        return _sum(rows, Resource.DISK, AmountKind.DISK, None)
    return _sum(rows, Resource.DISK, AmountKind.DISK, space.total_bytes, unfilled=space.free_bytes)


def _cpu(rows: _Rows) -> LedgerView:
    return _sum(rows, Resource.CPU, AmountKind.CPU, rows.report.cpu.logical_cores * 1000 if rows.report else None)


def _ram(rows: _Rows) -> LedgerView:
    size = rows.report.memory.total_bytes if rows.report else None
    kept = 0 if size is None else reserve_bytes(size)
    return _sum(rows, Resource.RAM, AmountKind.RAM, None if size is None else size - kept, kept)


_VIEWS: tuple[Callable[[_Rows], LedgerView], ...] = (_gpus, _ports, _disk, _cpu, _ram, _subnets)


def _sum(
    rows: _Rows, resource: Resource, kind: AmountKind, total: int | None, kept: int = 0, unfilled: int | None = None
) -> LedgerView:
    found = [_quantity(rows, amount, since) for amount, since in rows.amounts if amount.kind is kind]
    held = sum(row.amount for row in found)
    free = _left(total, held)
    if free is not None:
        found.append(_free(FREE, free))
    return LedgerView(resource, held, total, free, tuple(found), kept, unfilled)


def _quantity(rows: _Rows, amount: Amount, since: datetime) -> LedgerRow:
    owner = f"{_LETTERS[amount.owner]}.{amount.owner_id}"
    generation = amount.generation if amount.owner is OwnerKind.CONTRACT else None
    used = rows.used.get(owner) if amount.kind is AmountKind.DISK else None
    return LedgerRow(owner, owner, generation, since, rows.state(amount.owner, amount.owner_id), amount.amount, used)


def _thing(rows: _Rows, claim: Claim, since: datetime, detail: str) -> LedgerRow:
    name = "/".join(_port(claim)) if claim.kind in (ClaimKind.PORT_TCP, ClaimKind.PORT_UDP) else claim.key
    if claim.contract_id == MACHINE:
        return LedgerRow(name, "kaalia", None, since, "open", detail="copies")
    state = rows.state(OwnerKind.CONTRACT, claim.contract_id)
    return LedgerRow(name, f"C.{claim.contract_id}", claim.generation, since, state, detail=detail)


def _port(claim: Claim) -> tuple[str, str]:
    """("40011", "tcp")."""
    return claim.key, claim.kind.rpartition("/")[2]


def _free(name: str, amount: int = 1, detail: str = "") -> LedgerRow:
    return LedgerRow(name, None, None, None, FREE, amount, detail=detail)


def _left(total: int | None, held: int) -> int | None:
    return None if total is None else max(0, total - held)
