"""What waits for a reboot: updates that said so, and kernels newer than the one that runs. `root` holds /run, /boot."""

import re
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable

ROOT = Path("/")
_IMAGE = re.compile(r"(?:vmlinuz|vmlinux|kernel)-(?P<release>\d.*)")


def waiting_packages(root: Path = ROOT) -> tuple[str, ...] | None:
    """Packages that asked for a reboot, perhaps none by name; None: nobody asked."""
    if not (root / "run/reboot-required").exists() and not (root / "var/run/reboot-required").exists():
        return None
    try:
        return tuple(dict.fromkeys(read_text(root / "run/reboot-required.pkgs").split()))
    except HostError:
        return ()


def running_kernel(root: Path = ROOT) -> str:
    """Raises HostError `unreadable`."""
    return read_text(root / "proc/sys/kernel/osrelease")


def newer_kernel(running: str, root: Path = ROOT) -> str | None:
    """The newest installed kernel of the running one's flavour, if it is newer. Raises HostError `unreadable`."""
    folder = root / "boot"
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise unreadable(str(folder), error.strerror or str(error)) from error
    found = [match["release"] for name in names if (match := _IMAGE.fullmatch(name)) and not name.endswith(".old")]
    same = [release for release in found if _flavour(release) == _flavour(running)]
    newest = max(same, key=_order, default=running)
    # A kernel that is not installed (netboot, a rescue system) has no place in this order.
    return newest if running in found and _order(newest) > _order(running) else None


def _flavour(release: str) -> str:
    """`generic` of 6.8.0-45-generic, `amd64` of 6.1.0-28-amd64."""
    last = release.rpartition("-")[2]
    return "" if last[:1].isdigit() else last


def _order(release: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers as numbers; a letter, as of a release candidate, before them."""
    parts = re.findall(r"\d+|[a-z]+", release.lower())
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
