"""From the driver's counter to what a contract used: the real service, the real probe, the simulated driver."""

from pathlib import Path

from kaalia.capability.report import Inputs
from kaalia.capability.service import CapabilityService
from kaalia.model.machine import PortRange
from kaalia.store import claims, contracts, energy
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database, Transaction
from tests.capability.conftest import MakeProbe
from tests.capability.test_service import engine
from tests.support.builders import build_contract
from tests.support.clock import START, FakeClock
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, write


async def test_what_its_gpu_used_is_a_contracts_own(store: Database, simulated: MakeProbe, profile: Path) -> None:
    clock = FakeClock()
    probe = simulated(machine("2xA100") + setting(0, "energy_mj", 5_000_000) + setting(1, "energy_mj", 7_000_000))
    service = CapabilityService(store, clock, Inputs(probe, engine, PortRange(40000, 40799)))

    def rent(tx: Transaction) -> None:
        contracts.upsert(tx, build_contract(51), START)
        claims.claim(tx, [Claim(ClaimKind.GPU, gpu_uuid(0), 51, 1)], START)

    await store.transaction(rent)
    await service.refresh()
    clock.advance(60)
    write(profile, machine("2xA100") + setting(0, "energy_mj", 5_018_000) + setting(1, "energy_mj", 7_090_000))
    await service.refresh()
    found = await store.read(energy.totals)
    clock.advance(60)
    write(profile, machine("2xA100") + fault("nvmlDeviceGetTotalEnergyConsumption", "error 3"))
    report = await service.refresh()

    assert found == {51: 18.0}
    assert await store.read(energy.totals) == found, "a GPU that does not count it is well, and adds nothing"
    assert len(report.gpus) == 2
    assert not [one.field for one in report.missing if "energy" in one.field]
