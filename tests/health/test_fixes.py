"""What can be mended is planned word for word, done whole or not at all, and never where it might do harm."""

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kaalia.errors import HostError, Problem
from kaalia.health import fixes
from kaalia.health.book import entries
from kaalia.health.fixes import Fix, Machine
from kaalia.host.mending import Command, Step, WriteFile, carry_out
from kaalia.model.health import HOST, Condition, Severity
from kaalia.model.machine import PortRange
from tests.support.clock import START
from tests.support.sysfs import write_files

UUID = "GPU-6a1b2c3d-0000-4000-8000-000000000001"


def condition(code: str, scope: str = HOST) -> Condition:
    return Condition(Problem(code, "cannot", "do it by hand"), Severity.WARN, "later", scope)


def machine(root: Path) -> Machine:
    return Machine(PortRange(40000, 40099), START, root)


def one_fix(root: Path, *found: Condition) -> Fix:
    (made,), by_hand = fixes.plan(found, machine(root))
    assert not by_hand
    return made


def commands(steps: tuple[Step, ...]) -> list[str]:
    return [step.shown for step in steps if isinstance(step, Command)]


def done(steps: tuple[Step, ...]) -> None:
    asyncio.run(carry_out(steps))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that write down how they were called, and obey; `refuse` names one that does not."""
    folder, told = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    for name in ("systemctl", "apt-mark", "timedatectl", "nvidia-smi", "sysctl"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {told}\n[ ! -e {tmp_path}/refuse-{name} ]\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return told


def test_live_restore_keeps_all_that_docker_was_told(tmp_path: Path, shell: Path) -> None:
    before = {"data-root": "/srv/docker", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}
    root = write_files(tmp_path, {"etc/docker/daemon.json": json.dumps(before)})
    path = root / fixes.ENGINE_SETTINGS
    path.chmod(0o600)

    made = one_fix(root, condition("live_restore_off"))
    assert commands(made.steps) == ["systemctl reload docker"]
    assert json.loads(path.read_text()) == before  # a plan changes nothing
    done(made.steps)

    assert json.loads(path.read_text()) == {**before, "live-restore": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (kept,) = path.parent.glob("daemon.json.before-kaalia-*")
    assert json.loads(kept.read_text()) == before
    assert shell.read_text() == "systemctl reload docker\n"


def test_a_docker_without_settings_gets_a_file(tmp_path: Path, shell: Path) -> None:
    done(one_fix(tmp_path, condition("live_restore_off")).steps)

    assert json.loads((tmp_path / fixes.ENGINE_SETTINGS).read_text()) == {"live-restore": True}
    assert [path.name for path in (tmp_path / "etc/docker").iterdir()] == ["daemon.json"]


def test_what_docker_does_not_take_is_taken_back(tmp_path: Path, shell: Path) -> None:
    root = write_files(tmp_path, {"etc/docker/daemon.json": "{}", "refuse-systemctl": ""})

    with pytest.raises(HostError) as caught:
        done(one_fix(root, condition("live_restore_off")).steps)

    assert caught.value.code == "command_failed"
    assert (root / fixes.ENGINE_SETTINGS).read_text() == "{}\n"


def test_what_was_changed_since_it_was_shown_is_left_alone(tmp_path: Path, shell: Path) -> None:
    root = write_files(tmp_path, {"etc/docker/daemon.json": "{}"})
    made = one_fix(root, condition("live_restore_off"))
    write_files(root, {"etc/docker/daemon.json": '{"debug": true}'})

    with pytest.raises(HostError) as caught:
        done(made.steps)

    assert caught.value.code == "fix_outdated"
    assert json.loads((root / fixes.ENGINE_SETTINGS).read_text()) == {"debug": True}
    assert not shell.exists()


def test_settings_that_are_kept_elsewhere_stay_there(tmp_path: Path, shell: Path) -> None:
    root = write_files(tmp_path, {"srv/settings.json": '{"debug": true}'})
    path = root / fixes.ENGINE_SETTINGS
    path.parent.mkdir(parents=True)
    path.symlink_to(root / "srv/settings.json")

    done(one_fix(root, condition("live_restore_off")).steps)

    assert path.is_symlink()
    assert json.loads((root / "srv/settings.json").read_text()) == {"debug": True, "live-restore": True}


def test_who_breaks_it_off_finds_the_files_as_they_were(tmp_path: Path, shell: Path) -> None:
    root = write_files(tmp_path, {"etc/docker/daemon.json": "{}"})
    (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 600\n")
    steps = one_fix(root, condition("live_restore_off")).steps

    async def broken_off() -> None:
        work = asyncio.ensure_future(carry_out(steps))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(broken_off())

    assert (root / fixes.ENGINE_SETTINGS).read_text() == "{}\n"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"etc/docker/daemon.json": "{not json"}, "is no JSON"),
        ({"etc/docker/daemon.json": "[]"}, "holds list"),
        ({"var/lib/docker/swarm/docker-state.json": "{}"}, "swarm"),
        (
            {"proc/77/comm": "dockerd", "proc/77/cmdline": "dockerd\0--live-restore=false"},
            "started with --live-restore",
        ),
    ],
)
def test_where_it_might_do_harm_it_is_left_to_a_person(tmp_path: Path, files: dict[str, str], why: str) -> None:
    made, (left,) = fixes.plan([condition("live_restore_off")], machine(write_files(tmp_path, files)))

    assert made == []
    assert why in left.why
    assert left.problem.remedy == "do it by hand"


def test_packages_on_the_road_to_an_upgrade_are_held(tmp_path: Path) -> None:
    status = "Package: nvidia-driver-570\nStatus: install ok installed\n\nPackage: vim\nStatus: install ok installed"
    files = {
        "var/lib/dpkg/status": status,
        "etc/apt/apt.conf.d/20auto-upgrades": 'APT::Periodic::Unattended-Upgrade "1";',
        "usr/bin/unattended-upgrade": "",
    }

    made = one_fix(write_files(tmp_path, files), condition("unattended_upgrades"))

    assert commands(made.steps) == ["apt-mark hold nvidia-driver-570"]


def test_a_clock_is_given_to_ntp_and_a_gpu_kept_awake(tmp_path: Path) -> None:
    assert commands(one_fix(tmp_path, condition("clock_unsynchronised")).steps) == ["timedatectl set-ntp true"]
    off = condition("gpu_persistence_off", UUID)
    assert commands(one_fix(tmp_path, off, off).steps)[0] == f"nvidia-smi -i {UUID} -pm 1"
    write_files(tmp_path, {"lib/systemd/system/nvidia-persistenced.service": ""})
    assert commands(one_fix(tmp_path, off).steps) == ["systemctl enable --now nvidia-persistenced.service"]


def test_a_scope_that_is_no_gpu_goes_into_no_command(tmp_path: Path) -> None:
    made, (left,) = fixes.plan([condition("gpu_persistence_off", "-i 0 -pm 0; reboot")], machine(tmp_path))

    assert made == []
    assert "names no GPU" in left.why


def reserved(root: Path, kernel: str, file: str | None = None) -> WriteFile:
    write_files(root, {"proc/sys/net/ipv4/ip_local_reserved_ports": kernel})
    if file is not None:
        write_files(root, {fixes.PORTS_FILE: file})
    made = one_fix(root, condition("ports_not_reserved"))
    (step,) = (step for step in made.steps if isinstance(step, WriteFile))
    setting = step.text.splitlines()[-1].replace(" = ", "=")
    assert commands(made.steps) == [f"sysctl -q -w {setting}"]
    return step


def test_ports_are_reserved_beside_those_that_are(tmp_path: Path) -> None:
    lines = reserved(tmp_path, "8080,9000-9001").text.splitlines()

    assert lines[2:] == [
        "# range: 40000-40099",
        "# before: 8080,9000-9001",
        "net.ipv4.ip_local_reserved_ports = 8080,9000-9001,40000-40099",
    ]


def test_a_range_that_was_ours_before_is_let_go(tmp_path: Path) -> None:
    noted = "# range: 30000-30009\n# before: 8080\nnet.ipv4.ip_local_reserved_ports = 8080,30000-30009"

    lines = reserved(tmp_path, "8080,30000-30009", noted).text.splitlines()

    assert lines[2:] == [
        "# range: 40000-40099",
        "# before: 8080",
        "net.ipv4.ip_local_reserved_ports = 8080,40000-40099",
    ]


def test_everything_else_is_left_with_its_remedy(tmp_path: Path) -> None:
    made, by_hand = fixes.plan(
        [condition("raid_degraded", "md0"), condition("raid_degraded", "md1")], machine(tmp_path)
    )

    assert made == []
    assert [left.problem.remedy for left in by_hand] == ["do it by hand"] * 2


def test_the_catalogue_knows_what_can_be_mended() -> None:
    assert {one.id for one in entries().values() if one.has_fix} == fixes.FIXED


def test_no_fix_stops_or_restarts_anything(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/sys/net/ipv4/ip_local_reserved_ports": ""})
    found = [condition(code, UUID) for code in fixes.FIXED]
    made, _ = fixes.plan(found, machine(tmp_path))

    words: set[Any] = {word for one in made for step in one.steps if isinstance(step, Command) for word in step.argv}
    assert not words & {"restart", "stop", "reboot", "kill", "rm", "daemon-reload", "prune"}
    assert {one.code for one in made} == fixes.FIXED - {"unattended_upgrades"}


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")

    with pytest.raises(HostError) as caught:
        done((WriteFile(tmp_path / "etc/docker/daemon.json", "{}"),))

    assert caught.value.code == "fix_unwritable"
