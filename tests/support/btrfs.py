"""Btrfs as a test needs it: the kernel's own files about one file system, and a kernel that is easily confused."""

import os
import re
import subprocess
from pathlib import Path


def kernel(folder: Path) -> Path:
    """The files of the kernel about quotas of the file system of `folder`."""
    said = subprocess.run(["btrfs", "filesystem", "show", folder], check=True, capture_output=True, text=True).stdout
    found = re.search(r"uuid: ([0-9a-f-]{36})", said)
    assert found, said
    return Path("/sys/fs/btrfs", found[1], "qgroups")


def spoil_counts(folder: Path) -> None:
    """Remove a snapshot whose tree is too tall to be followed: the counts are inconsistent, and no limit holds.

    The kernel is told that any tree is too tall; otherwise it takes some hundred thousand files.
    """
    (kernel(folder) / "drop_subtree_threshold").write_text("0")
    base, snapshot = folder / "tall", folder / "tall.snapshot"
    if not base.exists():
        _run("btrfs", "subvolume", "create", base)
        for number in range(300):
            (base / f"{number}").write_bytes(os.urandom(1500))
        _run("btrfs", "filesystem", "sync", folder)
    _run("btrfs", "subvolume", "snapshot", base, snapshot)
    _run("btrfs", "filesystem", "sync", folder)
    _run("btrfs", "subvolume", "delete", snapshot)


def clear_away(folder: Path) -> None:
    """Wait until what was removed is gone."""
    _run("btrfs", "filesystem", "sync", folder)
    _run("btrfs", "subvolume", "sync", folder)


def is_inconsistent(folder: Path) -> bool:
    return (kernel(folder) / "inconsistent").read_text().strip() == "1"


def qgroups(folder: Path) -> set[str]:
    shown = subprocess.run(["btrfs", "qgroup", "show", "--sync", folder], check=True, capture_output=True, text=True)
    words = [line.split() for line in shown.stdout.splitlines()]
    return {line[0] for line in words if line and line[0][0].isdigit()}


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)
