"""The audit: what ledger, engine and driver say of each other is told when it differs twice, and kills nobody."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import pytest_asyncio

from kaalia.contracts.contract import Desired
from kaalia.model.gpu_use import SYSTEM_PROGRAMS, GpuProcess, GpuUse
from kaalia.model.health import Severity
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.ledger import Ledger
from kaalia.reconciler.selfaudit import AuditService
from kaalia.runtime.base import ObservedState
from kaalia.store import amounts, claims, conditions, contracts, gpu_use, intents, machine
from kaalia.store.amounts import AmountKind, OwnerKind
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Transaction
from kaalia.units import GIB
from tests.reconciler.rig import IMAGE, Rig, contract
from tests.support.builders import build_gpus, build_report

FIRST, SECOND = (gpu.uuid for gpu in build_gpus(2))


@dataclass
class Auditor:
    """A running contract 51 on a machine that is offered, and the audit of it."""

    rig: Rig
    service: AuditService

    def reborn(self) -> None:
        ledger = Ledger(self.rig.store, self.rig.clock)
        self.service = AuditService(self.rig.store, ledger, self.rig.runtime.inventory, self.rig.clock)

    async def look(self, times: int = 1) -> list[str]:
        """Audits, a minute apart; the codes that are open then."""
        for _ in range(times):
            self.rig.clock.advance(60)
            await self.service.audit()
        return [one.condition.problem.code for one in await self.rig.store.read(conditions.all_open)]

    async def evidence(self) -> str:
        (one,) = await self.rig.store.read(conditions.all_open)
        condition = one.condition
        assert condition.problem.remedy
        assert condition.clears_when
        assert condition.problem.message.startswith("cannot ")
        return f"{condition.severity} {condition.scope}: {condition.problem.evidence}"

    async def uses(self, *processes: GpuProcess) -> None:
        use = GpuUse(self.rig.clock.now(), processes)
        await self.rig.store.transaction(lambda tx: gpu_use.put(tx, use))


@pytest_asyncio.fixture
async def auditor(rig: Rig) -> AsyncIterator[Auditor]:
    await rig.put(contract())
    await rig.settle()
    ledger = Ledger(rig.store, rig.clock)
    made = Auditor(rig, AuditService(rig.store, ledger, rig.runtime.inventory, rig.clock))
    yield made
    assert rig.runtime.count("stop") <= 1
    assert rig.runtime.count("remove") <= 1


async def test_a_sound_machine_has_nothing_to_tell(auditor: Auditor) -> None:
    container_id = (await auditor.rig.row()).container_id
    assert container_id
    for _ in range(3):
        await auditor.uses(GpuProcess(FIRST, 70, "python3", ("f" * 64, container_id)))
        assert await auditor.look() == []

    await auditor.rig.put(contract(desired=Desired.STOPPED))
    await auditor.rig.settle()
    await auditor.uses()
    assert await auditor.look(2) == []

    await auditor.rig.put(contract(desired=Desired.ENDED))
    await auditor.rig.settle()
    assert await auditor.look(2) == []


async def test_what_is_seen_once_is_not_told_and_what_is_seen_twice_is_told_until_it_ends(auditor: Auditor) -> None:
    port, other = (binding.host_port for binding in (await auditor.rig.row()).ports)
    auditor.rig.runtime.faults.unpublished_ports = {port}
    assert await auditor.look() == []
    auditor.rig.runtime.faults.unpublished_ports = set()
    assert await auditor.look(2) == []

    auditor.rig.runtime.faults.unpublished_ports = {port}
    assert await auditor.look(2) == ["audit_port_taken"]
    first, second = sorted((port, other))
    promised = f"promised {first}/tcp, {second}/tcp; published {other}/tcp"
    assert await auditor.evidence() == f"critical C.51: {promised}"

    auditor.rig.runtime.faults.unpublished_ports = set()
    assert await auditor.look() == []
    assert 51 in auditor.rig.runtime.running()


async def test_a_restart_of_the_daemon_neither_ends_nor_renews_what_is_told(auditor: Auditor) -> None:
    auditor.rig.runtime.faults.unpublished_ports = {(await auditor.rig.row()).ports[0].host_port}
    await auditor.look(2)
    (before,) = await auditor.rig.store.read(conditions.all_open)

    auditor.reborn()

    assert await auditor.look() == ["audit_port_taken"]
    assert await auditor.rig.store.read(conditions.all_open) == (before,)


async def test_a_silent_engine_changes_nothing(auditor: Auditor) -> None:
    auditor.rig.runtime.faults.unpublished_ports = {(await auditor.rig.row()).ports[0].host_port}
    await auditor.look(2)
    auditor.rig.runtime.go_down()

    assert await auditor.look(3) == ["audit_port_taken"]


async def test_a_claim_that_nothing_uses(auditor: Auditor) -> None:
    stray = [Claim(ClaimKind.GPU, SECOND, 77, 1), Claim(ClaimKind.PORT_TCP, "40700", 77, 1)]
    await auditor.rig.store.transaction(lambda tx: claims.claim(tx, stray, auditor.rig.clock.now()))

    assert await auditor.look(2) == ["audit_claim_without_container"]
    assert await auditor.evidence() == f"warn C.77: gpu {SECOND}, port/tcp 40700"


async def test_bytes_that_no_container_has(auditor: Auditor) -> None:
    size = amounts.Amount(AmountKind.DISK, OwnerKind.CONTRACT, 77, 1, 5)
    volume = amounts.Amount(AmountKind.DISK, OwnerKind.VOLUME, 78, 1, 5)
    await auditor.rig.store.transaction(lambda tx: amounts.claim(tx, [size, volume], auditor.rig.clock.now()))

    assert await auditor.look(2) == ["audit_claim_without_container"]
    assert await auditor.evidence() == "warn C.77: 5 of disk"


async def test_a_stopped_contract_that_holds_a_gpu(auditor: Auditor) -> None:
    await auditor.rig.put(contract(desired=Desired.STOPPED))
    await auditor.rig.settle()
    kept = [Claim(ClaimKind.GPU, FIRST, 51, 1)]
    await auditor.rig.store.transaction(lambda tx: claims.claim(tx, kept, auditor.rig.clock.now()))

    assert await auditor.look(2) == ["audit_claim_without_container"]
    assert await auditor.evidence() == f"warn C.51: gpu {FIRST}"


async def test_what_is_being_done_is_not_audited(auditor: Auditor) -> None:
    stray = [Claim(ClaimKind.PORT_TCP, "40700", 77, 1)]

    def begin(tx: Transaction) -> None:
        claims.claim(tx, stray, auditor.rig.clock.now())
        intents.open_intent(tx, "launch", 77, 1, auditor.rig.clock.now())

    await auditor.rig.store.transaction(begin)
    assert await auditor.look(3) == []

    await auditor.rig.store.transaction(lambda tx: intents.close_all(tx, 77, "found settled", auditor.rig.clock.now()))
    assert await auditor.look(2) == ["audit_claim_without_container"]


@pytest.mark.parametrize("kind", [ClaimKind.GPU, ClaimKind.PORT_TCP])
async def test_a_container_whose_claim_is_gone(auditor: Auditor, kind: ClaimKind) -> None:
    await auditor.rig.store.transaction(lambda tx: claims.release(tx, 51, (kind,)))

    assert await auditor.look(2) == ["audit_container_without_claim"]
    assert f"warn C.51: {kind}" in await auditor.evidence()

    await auditor.rig.settle()  # the reconciler takes what exists into its books
    assert await auditor.look() == []


async def test_a_container_whose_bytes_are_not_counted(auditor: Auditor) -> None:
    await auditor.rig.store.transaction(partial(amounts.release, owner=OwnerKind.CONTRACT, owner_id=51))

    assert await auditor.look(2) == ["audit_container_without_claim"]
    assert await auditor.evidence() == "warn C.51: its disk"


async def test_a_container_without_a_contract_is_no_fault_of_the_ledger(auditor: Auditor) -> None:
    await auditor.rig.store.transaction(lambda tx: contracts.delete(tx, 51))
    await auditor.rig.store.transaction(partial(amounts.release, owner=OwnerKind.CONTRACT, owner_id=51))

    assert await auditor.look(2) == []


async def test_a_subnet_that_the_books_lost_is_theirs_again(auditor: Auditor) -> None:
    before = await auditor.rig.claims()
    await auditor.rig.store.transaction(lambda tx: claims.release(tx, 51, (ClaimKind.SUBNET,)))

    assert await auditor.look(2) == []
    assert await auditor.rig.claims() == before


async def test_a_network_that_nobody_needs_is_named_with_the_way_to_remove_it(auditor: Auditor) -> None:
    auditor.rig.runtime.networks[77] = "10.214.9.0/28"

    assert await auditor.look(2) == ["audit_container_without_claim"]
    assert await auditor.evidence() == "warn kaalia-77: subnet 10.214.9.0/28"
    (one,) = await auditor.rig.store.read(conditions.all_open)
    assert one.condition.problem.remedy == "docker network rm kaalia-77"


async def test_two_containers_with_one_port_and_one_gpu(auditor: Auditor) -> None:
    mine = auditor.rig.runtime.containers[51]
    other = replace(mine, contract_id=52, name="C.52", container_id="e" * 64, state=ObservedState.EXITED)
    auditor.rig.runtime.containers[52] = other

    assert await auditor.look(2) == ["audit_two_owners"] * len(mine.ports)

    auditor.rig.runtime.containers[52] = replace(other, state=ObservedState.PAUSED, ports=())
    assert await auditor.look(2) == ["audit_two_owners"]
    assert await auditor.evidence() == f"critical {FIRST}: "
    del auditor.rig.runtime.containers[52]
    assert await auditor.look() == []


async def test_a_container_that_uses_what_the_ledger_gives_to_another(auditor: Auditor) -> None:
    def give_away(tx: Transaction) -> None:
        claims.release(tx, 51, (ClaimKind.GPU,))
        claims.claim(tx, [Claim(ClaimKind.GPU, FIRST, 52, 1)], auditor.rig.clock.now())

    await auditor.rig.store.transaction(give_away)

    assert await auditor.look(2) == ["audit_claim_without_container", "audit_two_owners"]
    (_, shared) = await auditor.rig.store.read(conditions.all_open)
    assert "C.51 and C.52 have it" in shared.condition.problem.message


async def test_more_is_promised_than_the_disk_has(auditor: Auditor) -> None:
    report = build_report(auditor.rig.clock.now())
    assert report.disk is not None
    small = replace(report, disk=replace(report.disk, total_bytes=10 * GIB))
    await auditor.rig.store.transaction(lambda tx: machine.put_report(tx, small))

    assert await auditor.look(2) == ["audit_overcommitted"]
    assert await auditor.rig.state() is WorkloadState.RUNNING

    await auditor.rig.store.transaction(lambda tx: machine.put_report(tx, report))
    assert await auditor.look() == []


@pytest.mark.parametrize(("uuid", "severity"), [(FIRST, Severity.CRITICAL), (SECOND, Severity.WARN)])
async def test_a_process_of_no_contract(auditor: Auditor, uuid: str, severity: Severity) -> None:
    miner, other = GpuProcess(uuid, 4711, "miner"), GpuProcess(uuid, 88, "python3", ("b" * 64,))
    await auditor.uses(miner, other)
    assert await auditor.look(3) == []  # one reading, however often it is looked at

    await auditor.uses(miner, other)
    assert await auditor.look() == ["audit_gpu_foreign_process"]
    assert await auditor.evidence() == f"{severity} {uuid}: pid 88 (python3), pid 4711 (miner)"

    assert await auditor.look(3) == ["audit_gpu_foreign_process"]  # the driver is silent: nothing is known anew
    await auditor.uses()
    assert await auditor.look() == []
    assert 51 in auditor.rig.runtime.running()


async def test_programs_of_the_machine_itself_may_be_there_and_none_that_bears_their_name(auditor: Auditor) -> None:
    for _ in range(3):
        await auditor.uses(*(GpuProcess(FIRST, 700 + at, name) for at, name in enumerate(sorted(SYSTEM_PROGRAMS))))
        assert await auditor.look() == []

    for _ in range(2):
        await auditor.uses(GpuProcess(FIRST, 88, "Xorg", ("b" * 64,)), GpuProcess(FIRST, 9, "Xorg"))
        codes = await auditor.look()
    assert codes == ["audit_gpu_foreign_process"]
    assert await auditor.evidence() == f"critical {FIRST}: pid 88 (Xorg)"


async def test_free_gpus_of_a_machine_that_is_not_offered_are_its_owners(auditor: Auditor) -> None:
    await auditor.rig.store.transaction(lambda tx: machine.put_listing(tx, None))
    for _ in range(3):
        await auditor.uses(GpuProcess(SECOND, 4711, "miner"))
        assert await auditor.look() == []


async def test_a_contract_on_a_gpu_that_is_not_its_own(auditor: Auditor) -> None:
    container_id = (await auditor.rig.row()).container_id
    assert container_id
    for _ in range(2):
        await auditor.uses(GpuProcess(SECOND, 70, "python3", (container_id,)))
        await auditor.look()
    assert await auditor.evidence() == f"warn {SECOND}: GPU {SECOND}, pid 70 (python3)"

    await auditor.rig.put(contract(52))
    await auditor.rig.settle()
    for _ in range(2):
        await auditor.uses(GpuProcess(SECOND, 70, "python3", (container_id,)))
        await auditor.look()
    assert await auditor.evidence() == f"critical {SECOND}: pid 70 (python3)"


async def test_the_outermost_container_that_is_ours_counts(auditor: Auditor) -> None:
    """A tenant may make cgroups of any name, but only below its own."""
    await auditor.rig.put(contract(52))
    await auditor.rig.settle()
    mine, others = (await auditor.rig.row()).container_id, (await auditor.rig.row(52)).container_id
    assert mine
    assert others
    for _ in range(2):
        await auditor.uses(GpuProcess(SECOND, 70, "python3", (mine, others)))
        codes = await auditor.look()

    assert codes == ["audit_two_owners"]


async def test_a_launch_in_the_middle_of_the_audit_is_not_told(auditor: Auditor) -> None:
    auditor.rig.runtime.images.pop(IMAGE)
    auditor.rig.crash_at = "pull.intended"
    await auditor.rig.put(contract(52))
    await auditor.rig.service.reconcile()
    await auditor.rig.idle()

    assert await auditor.rig.open_intents() == ["pull"]
    assert await auditor.look(3) == []
