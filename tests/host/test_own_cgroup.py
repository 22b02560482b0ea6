"""A cgroup of its own for a child: on files that stand for the kernel's, since few machines let a test make one."""

import os
from pathlib import Path

from kaalia.host.own_cgroup import OwnCgroup


def kernel(tmp_path: Path, place: str = "/system.slice/kaalia.service") -> tuple[Path, Path]:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / place.lstrip("/")).mkdir(parents=True)
    (root / place.lstrip("/") / "cgroup.procs").touch()
    own.write_text(f"0::{place}\n")
    return root, own


def test_it_is_made_below_the_daemons_and_removed(tmp_path: Path) -> None:
    root, own = kernel(tmp_path)

    made = OwnCgroup.around(os.getpid(), "selftest-memory", root, own, tmp_path)

    assert made is not None
    folder = root / "system.slice/kaalia.service" / f"kaalia-selftest-memory-{os.getpid()}"
    assert made.members() == [os.getpid()]
    (folder / "cgroup.procs").unlink()  # of the kernel's files none keeps a folder
    made.remove()
    assert not folder.exists()


def test_all_in_it_are_killed(tmp_path: Path) -> None:
    root, own = kernel(tmp_path)
    made = OwnCgroup.around(os.getpid(), "x", root, own, tmp_path)
    assert made is not None
    (switch := next((root / "system.slice/kaalia.service").glob("kaalia-*")) / "cgroup.kill").touch()

    made.kill()

    assert switch.read_text() == "1"


def test_where_none_can_be_made_there_is_none(tmp_path: Path) -> None:
    root, own = kernel(tmp_path)
    own.write_text("7:memory:/old\n")

    assert OwnCgroup.around(os.getpid(), "x", root, own, tmp_path) is None
    assert OwnCgroup.around(os.getpid(), "x", tmp_path / "none", own, tmp_path) is None


def test_with_the_kernel_s_first_version_nothing_is_made(tmp_path: Path) -> None:
    """There the top is a mere folder in memory: what is made in it stays."""
    root, own = kernel(tmp_path, "/")
    (root / "cgroup.procs").unlink()

    assert OwnCgroup.around(os.getpid(), "x", root, own, tmp_path) is None
    assert not list(root.iterdir())
