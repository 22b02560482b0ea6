"""Drives by smartctl: asked one by one, a sleeping one left asleep, and a refusal told as one."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaalia.errors import HostError
from kaalia.host import drives as module
from kaalia.host import outside
from kaalia.host.drives import Drive, drives, parse

Answers = Callable[[dict[str, tuple[int, Any]]], Path]
GOOD = {"model_name": "SSD", "smart_status": {"passed": True}, "nvme_smart_health_information_log": {"media_errors": 0}}
ASLEEP = {"smartctl": {"messages": [{"string": "Device is in STANDBY mode, exit(2)"}]}}
DENIED = {"smartctl": {"messages": [{"string": "Smartctl open device: /dev/nvme0 failed: Permission denied"}]}}


@pytest.fixture
def smartctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A program in its place: by device, exit code and what it prints."""

    async def nowhere(*_: str) -> tuple[str, ...]:
        return ()

    def install(answers: dict[str, tuple[int, Any]]) -> Path:
        scan = {"devices": [{"name": name, "type": "nvme"} for name in answers]}
        lines = [f"--scan) echo '{json.dumps(scan)}'; exit 0;;"]
        lines += [
            f"{name}) echo '{told if isinstance(told, str) else json.dumps(told)}'; exit {code};;"
            for name, (code, told) in answers.items()
        ]
        program = tmp_path / "smartctl"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {tmp_path}/called\nfor last; do :; done\ncase "$last" in\n'
            + "\n".join(lines)
            + "\nesac\n"
        )
        program.chmod(0o755)
        return tmp_path / "called"

    monkeypatch.setitem(outside.ENVIRONMENT, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(outside, "prefix", nowhere)
    return install


async def test_each_drive_is_asked_and_never_woken(smartctl: Answers) -> None:
    called = smartctl({"/dev/nvme0": (0, GOOD), "/dev/sda": (2, ASLEEP)})

    assert await drives() == (Drive("/dev/nvme0", "SSD", has_passed=True),)
    scan, *asked = called.read_text().splitlines()
    assert "--scan" in scan
    assert len(asked) == 2
    assert all("-n standby" in line for line in asked)


async def test_drives_behind_one_controller_are_told_apart(smartctl: Answers, tmp_path: Path) -> None:
    """As a Dell PERC shows its own: one device, and a place behind it for each, by which it can be asked."""
    called = smartctl({"/dev/bus/0": (0, GOOD)})
    program, kinds = tmp_path / "smartctl", ("megaraid,8", "megaraid,9")
    scan = json.dumps({"devices": [{"name": "/dev/bus/0", "type": kind} for kind in kinds]})
    program.write_text(program.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n[ $# = 2 ] && exec echo '{scan}'\n", 1))

    found = await drives() or ()

    assert [one.device for one in found] == [f"/dev/bus/0 -d {kind}" for kind in kinds]
    assert sorted(line.partition("-d ")[2] for line in called.read_text().splitlines()) == [
        f"{kind} /dev/bus/0" for kind in kinds
    ]


async def test_without_smartctl_nothing_is_claimed(smartctl: Answers) -> None:
    assert await drives() is None


async def test_a_refusal_is_told_with_its_reason(smartctl: Answers) -> None:
    smartctl({"/dev/nvme0": (2, DENIED)})

    with pytest.raises(HostError) as caught:
        await drives()

    assert "Permission denied" in caught.value.problem.message


@pytest.mark.parametrize("told", ["", "no json", "[]", {"smart_status": 7}, {"ata_smart_attributes": {"table": [3]}}])
async def test_an_answer_that_is_none_harms_no_other(smartctl: Answers, told: Any) -> None:
    smartctl({"/dev/sda": (2, told), "/dev/nvme0": (0, GOOD)})

    assert await drives() == (Drive("/dev/nvme0", "SSD", has_passed=True),)


async def test_drives_that_hang_hold_up_nobody_and_are_told(
    smartctl: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that hangs with a dozen drives behind it, and one that is well beside it."""
    smartctl({"/dev/nvme0": (0, GOOD), **{f"/dev/sd{letter}": (0, GOOD) for letter in "abcdefghijkl"}})
    program = tmp_path / "smartctl"
    text = program.read_text()
    hang = 'case "$*" in *--scan*) ;; */dev/sd*) exec sleep 600;; esac'
    program.write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n{hang}\n", 1))
    monkeypatch.setattr(module, "TIMEOUT_S", 5)

    began_s = time.monotonic()
    found = await drives(all_s=6) or ()

    assert time.monotonic() - began_s < 30
    assert Drive("/dev/nvme0", "SSD", has_passed=True) in found
    assert len([one for one in found if one.silent]) == 12


async def test_a_machine_without_such_drives_has_none(smartctl: Answers) -> None:
    smartctl({})

    assert await drives() == ()


def test_an_nvme_drive_tells_its_wear() -> None:
    told = {
        "model_name": "Samsung SSD 980 PRO 2TB",
        "smart_status": {"passed": True, "nvme": {"value": 0}},
        "nvme_smart_health_information_log": {"critical_warning": 4, "percentage_used": 93, "media_errors": 2},
    }

    assert parse("/dev/nvme0", told) == Drive("/dev/nvme0", "Samsung SSD 980 PRO 2TB", True, 4, 93, 2)


def test_an_ata_drive_tells_its_lost_sectors() -> None:
    table = [
        {"id": 5, "raw": {"value": 8}},
        {"id": 197, "raw": {"value": (7 << 32) + 3}},
        {"id": 198, "raw": {"value": 1}},
    ]
    told = {"smart_status": {"passed": False}, "ata_smart_attributes": {"table": table}}

    assert parse("/dev/sda", told) == Drive("/dev/sda", "", False, 0, None, 4)


def test_a_drive_that_tells_nothing_is_none() -> None:
    assert parse("/dev/sda", {"smartctl": {"exit_status": 2}}) is None
