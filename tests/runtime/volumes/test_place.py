"""Paths of volumes: numbers only, no links, nothing outside of the machine's own folder."""

from pathlib import Path

import pytest

from kaalia.errors import WorkloadError
from kaalia.host.outside import by_systemd, is_sandboxed
from kaalia.runtime.volumes.place import Place


def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "7@b16c2d1bead12626")


def made(at: Place, volume_id: int) -> Path:
    data = at.data(volume_id)
    data.mkdir(parents=True)
    at.key_file(volume_id).write_text("secret\n")
    return data


def test_a_real_folder_passes(tmp_path: Path) -> None:
    at = place(tmp_path)
    data = made(at, 5)

    assert at.check(5) == data
    assert (at.key(5), at.key(6)) == ("secret", None)
    assert at.found() == (5,)


@pytest.mark.parametrize("link", ["data", "home", "root"])
def test_a_link_anywhere_is_refused(tmp_path: Path, link: str) -> None:
    at = place(tmp_path)
    data = made(at, 5)
    path = {"data": data, "home": data.parent, "root": at.root}[link]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(WorkloadError, match="cannot find the data of volume 5") as refused:
        at.check(5)
    assert refused.value.code == "volume_missing"


@pytest.mark.parametrize("volume_id", [0, -1, 2**31])
def test_a_number_out_of_range_makes_no_path(tmp_path: Path, volume_id: int) -> None:
    with pytest.raises(WorkloadError):
        place(tmp_path).home(volume_id)


@pytest.mark.parametrize("machine", ["../etc", "7", "7@", "7@XYZ", "7@ab/.."])
def test_a_strange_machine_makes_no_path(tmp_path: Path, machine: str) -> None:
    with pytest.raises(ValueError, match="no name of a machine"):
        Place(tmp_path, machine).data(1)


def test_only_what_is_called_like_a_volume_is_found(tmp_path: Path) -> None:
    at = place(tmp_path)
    at.root.mkdir()
    for name in ("V.1", "V.2.img", "V.3.key", "V.0", "V.x", "V.4.bak", "notes"):
        (at.root / name).touch()

    assert at.found() == (1, 2, 3)


def test_the_sandbox_is_told_by_a_missing_capability() -> None:
    assert is_sandboxed("Name:\tx\nCapEff:\t0000000000000000\n")
    assert not is_sandboxed("Name:\tx\nCapEff:\t000001ffffffffff\n")


def test_what_systemd_runs_has_its_limits() -> None:
    words = by_systemd("MemoryMax=1G", "TasksMax=8")
    assert words[-3:] == ("--property=MemoryMax=1G", "--property=TasksMax=8", "--")
    assert by_systemd()[-1] == "--"
