"""Files of the engine's that a container may fill: emptied when large, and nothing else is touched."""

import os
from pathlib import Path
from typing import Any

import pytest

from kaalia.runtime.base import GrownFile
from kaalia.runtime.container.engine_files import empty_grown, is_any_empty
from kaalia.units import MIB


def engine(root: Path) -> dict[str, Any]:
    """A container's inspection, and the folder of its pause below `root`."""
    folder = root / "containers/pause"
    folder.mkdir(parents=True)
    names = {"HostsPath": "hosts", "ResolvConfPath": "resolv.conf", "HostnamePath": "hostname"}
    for name in names.values():
        (folder / name).write_text("small\n")
    return {key: str(folder / name) for key, name in names.items()}


@pytest.mark.parametrize(
    ("key", "name"),
    [("HostsPath", "/etc/hosts"), ("ResolvConfPath", "/etc/resolv.conf"), ("HostnamePath", "/etc/hostname")],
)
def test_a_file_that_has_grown_is_emptied_and_told(tmp_path: Path, key: str, name: str) -> None:
    document = engine(tmp_path)
    Path(document[key]).write_bytes(bytes(3 * MIB))

    grown = empty_grown(document, str(tmp_path), MIB)

    assert grown is not None
    assert grown.name == name
    assert grown.size_bytes >= 3 * MIB
    assert [Path(path).stat().st_size for path in document.values()].count(0) == 1
    assert Path(document[key]).stat().st_size == 0
    assert empty_grown(document, str(tmp_path), MIB) is None


def test_blocks_count_and_not_the_size_that_a_file_says(tmp_path: Path) -> None:
    document = engine(tmp_path)
    os.truncate(document["HostsPath"], 50 * MIB)

    assert empty_grown(document, str(tmp_path), MIB) is None
    assert Path(document["HostsPath"]).stat().st_size == 50 * MIB


def test_nothing_but_the_engine_s_own_files_is_touched(tmp_path: Path) -> None:
    root = tmp_path / "docker"
    document = engine(root)
    theirs = tmp_path / "owner"
    theirs.mkdir()
    file = theirs / "hosts"
    file.write_bytes(bytes(3 * MIB))
    (root / "containers/link").symlink_to(file)
    (root / "containers/folder").symlink_to(theirs)
    outside = [file, root / "containers/link", root / "containers/folder/hosts", root / "../owner/hosts", "owner/hosts"]

    for path in (*outside, root / "containers/pause", root / "containers/gone", ""):
        assert empty_grown({**document, "HostsPath": str(path)}, str(root), MIB) is None

    assert empty_grown({}, str(root), MIB) is None
    assert file.stat().st_size == 3 * MIB


def test_the_largest_is_told(tmp_path: Path) -> None:
    document = engine(tmp_path)
    Path(document["HostsPath"]).write_bytes(bytes(2 * MIB))
    Path(document["HostnamePath"]).write_bytes(bytes(4 * MIB))

    assert empty_grown(document, str(tmp_path), MIB) == GrownFile("/etc/hostname", 4 * MIB)


def test_an_emptied_file_is_seen(tmp_path: Path) -> None:
    document = engine(tmp_path)
    assert not is_any_empty(document, str(tmp_path))
    assert not is_any_empty({}, str(tmp_path))

    Path(document["HostsPath"]).write_bytes(b"")

    assert is_any_empty(document, str(tmp_path))
    assert not is_any_empty(document, str(tmp_path / "elsewhere")), "what is not the engine's is not looked at"
