"""The policy on the simulated driver: set by use and heat, put back at its end, and never a tenant's concern."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.cli import output
from kaalia.cli.commands.power import app
from kaalia.config_power import PowerConfig
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.power import PowerPolicy
from kaalia.daemon import power as root
from kaalia.host.power import PowerProbe, PowerReading
from kaalia.model.power import PowerMark, PowerSetting
from kaalia.power.policy import read
from kaalia.power.service import PowerService
from kaalia.store import claims, conditions, contracts, machine
from kaalia.store import power as rows
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from tests.support.builders import build_contract, build_gpus, build_report
from tests.support.clock import START, FakeClock
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, setting, write
from tests.support.fake_nvidia.profiles import machine as machine_of

POLICY = {"idle": {"power_w": 200, "clock_max_mhz": 900}, "guard": {"above_c": 85, "below_c": 75}}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"))


class Rig:
    """Two simulated GPUs, and a service that is asked to look."""

    def __init__(self, folder: Path, library: Path, store: Database, changes: Changes, clock: FakeClock) -> None:
        self.profile = folder / "profile"
        write(self.profile, machine_of("2xRTX_4090"))
        self.env = environment(library, self.profile)
        self.store, self.changes, self.clock = store, changes, clock

    def service(self, policy: PowerPolicy) -> PowerService:
        return PowerService(self.store, self.changes, self.clock, policy, PowerProbe(env=self.env, deadline_s=20))

    def value(self, index: int, key: str) -> str:
        """As the driver has it now."""
        lines = self.profile.read_text().splitlines()
        return next((line.split(maxsplit=3)[3] for line in lines if line.startswith(f"gpu {index} {key} ")), "")

    async def reported(self, *temperatures: int) -> None:
        """The daemon's reading of the driver, newer than all before."""
        self.clock.advance(60)
        limits = [int(self.value(index, "power_limit_mw")) / 1000 for index in (0, 1)]
        gpus = tuple(
            replace(gpu, uuid=gpu_uuid(gpu.index), temperature_c=heat, power_limit_w=limits[gpu.index])
            for gpu, heat in zip(build_gpus(2), temperatures, strict=True)
        )
        report = replace(build_report(self.clock.now()), gpus=gpus)
        await self.store.transaction(lambda tx: machine.put_report(tx, report))

    async def wrong(self) -> list[tuple[str, str]]:
        found = await self.store.read(conditions.all_open)
        return [(one.condition.problem.code, one.condition.scope) for one in found if one.source == "power"]


class CountingProbe(PowerProbe):
    """`settings`: how often something was to be set."""

    settings = 0

    async def apply(self, settings: Iterable[PowerSetting] = ()) -> PowerReading:
        wanted = tuple(settings)
        self.settings += bool(wanted)
        return await super().apply(wanted)


@pytest.fixture
def rig(tmp_path: Path, library: Path, store: Database, changes: Changes, clock: FakeClock) -> Rig:
    return Rig(tmp_path, library, store, changes, clock)


def policy(**more: object) -> PowerPolicy:
    return read(PowerConfig.model_validate({**POLICY, **more}))


async def test_limits_follow_the_use_and_come_back_with_the_policys_end(rig: Rig) -> None:
    subject = rig.service(policy())
    await rig.reported(40, 40)

    await subject.look()
    assert [rig.value(i, "power_limit_mw") for i in (0, 1)] == ["200000", "200000"]
    assert rig.value(0, "locked_clocks_mhz") == "0 900"

    def rent(tx: Transaction) -> None:
        contracts.upsert(tx, build_contract(51), START)
        contracts.upsert(tx, build_contract(52, kind=ContractKind.DEFAULT_JOB), START)
        claims.claim(tx, [claims.Claim(claims.ClaimKind.GPU, gpu_uuid(0), 51, 1)], START)
        claims.claim(tx, [claims.Claim(claims.ClaimKind.GPU, gpu_uuid(1), 52, 1)], START)

    await rig.store.transaction(rent)
    await rig.reported(40, 40)
    await subject.look()
    assert [rig.value(i, "power_limit_mw") for i in (0, 1)] == ["450000", "450000"]
    assert rig.value(0, "locked_clocks_mhz") == "0 0"
    assert await rig.store.read(rows.marks) == {}

    await rig.store.transaction(lambda tx: claims.release(tx, 51))
    await subject.look()
    assert rig.value(0, "power_limit_mw") == "200000"
    await rig.service(PowerPolicy({})).look()
    assert rig.value(0, "power_limit_mw") == "450000"
    assert await rig.wrong() == []


async def test_a_hot_gpu_draws_less_until_it_is_cool(rig: Rig) -> None:
    subject = rig.service(policy(idle={}))
    seen = []
    for heat in (60, 90, 80, 70):
        await rig.reported(heat, 40)
        await subject.look()
        seen.append((rig.value(0, "power_limit_mw"), await rig.wrong()))

    guarded = ("150000", [("power_guarded", gpu_uuid(0))])
    assert seen == [("450000", []), guarded, guarded, ("450000", [])]
    assert rig.value(1, "power_limit_mw") == "450000"


async def test_who_changes_the_limit_finds_it_set_again(rig: Rig) -> None:
    subject = rig.service(policy())
    await rig.reported(40, 40)
    await subject.look()
    write(rig.profile, setting(0, "power_limit_mw", 450000) + rig.profile.read_text())
    await rig.reported(40, 40)

    await subject.look()

    assert rig.value(0, "power_limit_mw") == "200000"


@pytest.mark.parametrize(
    ("function", "verb", "code", "says"),
    [
        ("nvmlDeviceSetPowerManagementLimit", "error 4", "power_refused", "CAP_SYS_ADMIN"),
        ("nvmlDeviceSetGpuLockedClocks", "error 3", "power_refused", "nvidia-smi"),
        ("nvmlInitWithFlags", "error 999", "power_unreadable", "nvidia-smi"),
        ("nvmlDeviceSetPowerManagementLimit", "abort", "power_unreadable", "dmesg"),
    ],
)
async def test_what_fails_is_told_and_ends_when_it_works(
    rig: Rig, function: str, verb: str, code: str, says: str
) -> None:
    plain = rig.profile.read_text()
    write(rig.profile, fault(function, verb) + plain)
    subject = rig.service(policy())
    await rig.reported(40, 40)

    await subject.look()
    (first, *_) = [one for one in await rig.store.read(conditions.all_open) if one.source == "power"]
    assert first.condition.problem.code == code
    assert says in first.condition.problem.remedy

    write(rig.profile, plain)
    await rig.reported(40, 40)
    await subject.look()
    assert await rig.wrong() == []
    assert rig.value(0, "power_limit_mw") == "200000"


async def test_a_gpu_that_is_lost_leaves_the_others_their_guard(rig: Rig) -> None:
    subject = rig.service(policy(idle={}))
    await rig.reported(60, 60)
    await subject.look()
    write(rig.profile, fault("nvmlDeviceGetHandleByIndex_v2", "error 15", gpu=0) + rig.profile.read_text())
    await rig.reported(60, 95)
    report = await rig.store.read(machine.get_report)
    assert report is not None
    left = replace(report, gpus=report.gpus[1:])
    await rig.store.transaction(lambda tx: machine.put_report(tx, left))

    await subject.look()  # another GPU than before: the driver is asked which there are
    await subject.look()

    assert rig.value(1, "power_limit_mw") == "150000"
    assert await rig.wrong() == [("power_guarded", gpu_uuid(1))]


async def test_what_was_set_on_a_gpu_that_is_gone_since_another_boot_is_forgotten(rig: Rig) -> None:
    here = rig.clock.boot_id()
    gone = [
        PowerMark("GPU-removed", "another boot", 450.0, 200.0, None),
        PowerMark("GPU-lost", here, 450.0, 200.0, None),
    ]
    await rig.store.transaction(lambda tx: rows.put(tx, gone, ()))
    await rig.reported(40, 40)

    await rig.service(PowerPolicy({})).look()

    assert (await rig.store.read(rows.marks)).keys() == {"GPU-lost"}


async def test_what_is_refused_is_asked_for_once_a_minute_however_often_the_bell_rings(rig: Rig) -> None:
    write(rig.profile, fault("nvmlDeviceSetPowerManagementLimit", "error 4") + rig.profile.read_text())
    probe = CountingProbe(env=rig.env, deadline_s=20)
    subject = PowerService(rig.store, rig.changes, rig.clock, policy(idle={"power_w": 200}), probe)
    await rig.reported(40, 40)
    for _ in range(3):
        await subject.look()

    assert probe.settings == 1
    assert {code for code, _ in await rig.wrong()} == {"power_refused"}

    await rig.reported(40, 40)
    await subject.look()
    assert probe.settings == 2


async def test_a_driver_that_hangs_holds_nothing_up(rig: Rig) -> None:
    write(rig.profile, fault("nvmlInitWithFlags", "hang") + rig.profile.read_text())
    subject = PowerService(rig.store, rig.changes, rig.clock, policy(), PowerProbe(env=rig.env, deadline_s=1))

    await subject.look()

    assert await rig.wrong() == [("power_unreadable", "host")]


async def test_a_limit_that_no_gpu_takes_is_told_with_its_bounds(rig: Rig) -> None:
    await rig.service(policy(idle={"power_w": 20})).look()

    assert await rig.wrong() == [("power_out_of_range", gpu_uuid(0)), ("power_out_of_range", gpu_uuid(1))]
    assert rig.value(0, "power_limit_mw") == "450000"


async def test_the_parts_are_made_only_for_a_policy_or_for_what_one_left(rig: Rig) -> None:
    off, on = PowerConfig(), PowerConfig(enabled=True)
    assert await root.service(off, rig.clock, rig.changes, rig.store) is None
    assert isinstance(await root.service(on, rig.clock, rig.changes, rig.store), PowerService)
    await rig.service(policy()).look()

    assert isinstance(await root.service(off, rig.clock, rig.changes, rig.store), PowerService)


def test_a_dry_run_shows_what_would_be_done_and_changes_nothing(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile"
    write(profile, machine_of("1xRTX_4090"))
    for name, value in environment(library, profile).items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "kaalia.yaml"
    config.write_text(f"state_dir: {tmp_path}\npower: {{idle: {{power_w: 200, clock_max_mhz: 99999}}}}\n")
    before = profile.read_text()

    def run(*args: str) -> int:
        try:
            return output.run(app, [*args, "--config", str(config)], "kaalia power")
        except SystemExit as end:
            return int(end.code or 0)

    assert run("--dry-run") == 2
    config.write_text(f"state_dir: {tmp_path}\npower: {{idle: {{power_w: 200, clock_max_mhz: 9999}}}}\n")
    assert run("--dry-run") == 1
    shown = capsys.readouterr().out
    assert "200 W" in shown
    assert "runs at 3105 MHz at most" in " ".join(shown.split())
    assert "not enabled" in shown
    assert run("--restore") == 0
    assert profile.read_text() == before
