"""Looks whether the containers of GPU contracts may still use their GPUs, and says why not. It only reads.

Nothing runs inside of a container, no device is opened, and NVML is not asked: see `host.gpu_access`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from kaalia.clock import Clock
from kaalia.contracts.local import is_local
from kaalia.errors import HostError, Problem
from kaalia.host import gpu_access
from kaalia.host.gpu_access import GpuAccess
from kaalia.model.health import Condition, Severity
from kaalia.model.workload import WorkloadState
from kaalia.service import run_forever
from kaalia.store import conditions, machine, workloads
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

SOURCE = "gpu-inside"
LOOK_S = 45.0
"""So that what is lost is told within a minute."""
UNSEEN_LOOKS = 3
"""A container may just be coming up or going."""
_CLEARS = "the container may use its GPUs again, or has stopped"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A contract whose container runs with GPUs."""

    contract_id: int
    container_id: str
    gpu_count: int


class GpuInsideService:
    """`look`: by container ids; those that cannot be looked at are left out. Raises HostError."""

    name = "gpu-inside"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        look_s: float = LOOK_S,
        look: Callable[[Iterable[str]], Awaitable[Mapping[str, GpuAccess]]] = gpu_access.look,
    ) -> None:
        self._database = database
        self._clock = clock
        self._look_s = look_s
        self._look = look
        self._bell = changes.subscribe(Topic.WORKLOADS)
        self._told: list[Condition] | None = None
        self._unseen: dict[str, int] = {}

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        next_s = self._clock.monotonic_s() + self._look_s
        tenants = await self.look()
        if not tenants:
            await wait(self._bell, None)
            return
        while (left_s := next_s - self._clock.monotonic_s()) > 0:
            await wait(self._bell, left_s)

    async def look(self) -> int:
        """One look at all; how many there are."""
        tenants, is_simulated = await self._database.read(_read)
        seen: Mapping[str, GpuAccess] = {}
        if tenants:
            try:
                seen = await self._look(one.container_id for one in tenants)
            except HostError as error:
                log.warning("gpu-inside: %s", error)
        missed = [one.container_id for one in tenants if one.container_id not in seen]
        self._unseen = {container_id: self._unseen.get(container_id, 0) + 1 for container_id in missed}
        found = [condition for one in tenants if (condition := self._judge(one, seen, is_simulated)) is not None]
        if found != self._told:
            now = self._clock.now()
            await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
            self._told = found
        return len(tenants)

    def _judge(self, one: Tenant, seen: Mapping[str, GpuAccess], is_simulated: bool) -> Condition | None:
        scope = f"C.{one.contract_id}"
        access = seen.get(one.container_id)
        if access is None:
            return self._before(scope) if self._unseen[one.container_id] < UNSEEN_LOOKS else _unseen(scope)
        if access.lost:
            return _lost(scope, access.lost, one.contract_id)
        is_told = bool(access.nodes) or not is_simulated
        return _fewer(scope, one, access) if is_told and len(access.nodes) < one.gpu_count else None

    def _before(self, scope: str) -> Condition | None:
        """What one look cannot tell stays as it was."""
        return next((known for known in self._told or () if known.scope == scope), None)


def _read(tx: Transaction) -> tuple[list[Tenant], bool]:
    report = machine.get_report(tx)
    rows = workloads.all_workloads(tx).values()
    tenants = [
        Tenant(row.contract_id, row.container_id, len(row.gpu_uuids))
        for row in rows
        if row.state is WorkloadState.RUNNING and row.gpu_uuids and row.container_id and not is_local(row.contract_id)
    ]
    return tenants, report is not None and report.driver is not None and report.driver.simulated


def _lost(scope: str, names: list[str], contract_id: int) -> Condition:
    devices = ", ".join(f"/dev/{name}" for name in names)
    problem = Problem(
        "gpu_lost_in_container",
        f"cannot use its GPUs any more: {scope} lost the right to {devices} while it ran",
        remedy=f"restart it: docker restart {scope}, or its renter: vastai reboot instance {contract_id}. So that it "
        "does not come again: nvidia-ctk system create-dev-char-symlinks --create-all at each boot, or let Docker use "
        'CDI, or "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json when nobody rents',
        evidence=f"its cgroup forbids {devices}, as after systemctl daemon-reload; "
        'programs inside say "Failed to initialize NVML: Unknown Error"',
    )
    return Condition(problem, Severity.CRITICAL, _CLEARS, scope)


def _fewer(scope: str, one: Tenant, access: GpuAccess) -> Condition:
    names = ", ".join(f"/dev/{name}" for name in access.nodes) or "none"
    problem = Problem(
        "gpu_missing_in_container",
        f"cannot see all of its GPUs: {scope} has {len(access.nodes)} device nodes for {one.gpu_count} GPUs",
        remedy="its renter may have removed them himself, then nothing is wrong; else see dmesg, and restart it",
        evidence=f"there: {names}",
    )
    return Condition(problem, Severity.WARN, _CLEARS, scope)


def _unseen(scope: str) -> Condition:
    problem = Problem(
        "gpu_inside_unseen",
        f"cannot tell whether {scope} may still use its GPUs: its cgroup is not where Docker's drivers put it",
        remedy="see docker info (Cgroup Driver), and --cgroup-parent of dockerd; a paused container is not looked at",
        evidence=f"looked at {UNSEEN_LOOKS} times in a row",
    )
    return Condition(problem, Severity.UNKNOWN, _CLEARS, scope)
