"""What any process has mounted, by /proc as the kernel writes it."""

from pathlib import Path

import pytest

from kaalia.host import mounted

LINE = "36 35 98:0 {} /mnt rw,noatime master:1 - ext4 /dev/root rw\n"


def process(folder: Path, number: int, *roots: str) -> None:
    made = folder / str(number)
    made.mkdir()
    (made / "mountinfo").write_text("".join(LINE.format(root) for root in roots))


def test_all_processes_are_looked_at(tmp_path: Path) -> None:
    process(tmp_path, 1, "/", "/var/lib/kaalia/kit/aa")
    process(tmp_path, 2, "/kit/bb")
    (tmp_path / "self").mkdir()

    assert mounted.names(tmp_path) == {"", "aa", "bb"}


def test_who_ends_meanwhile_has_nothing_and_who_cannot_be_looked_at_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, 1, "/kit/aa")
    (tmp_path / "2").mkdir()
    assert mounted.names(tmp_path) == {"aa"}

    def forbidden(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(PermissionError):
        mounted.names(tmp_path)


def test_this_machine_can_be_looked_at() -> None:
    assert "" in mounted.names(), "the root of some file system"
