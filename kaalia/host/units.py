"""Which systemd services run, by their cgroups: no process is asked. `root` holds /sys."""

from pathlib import Path

from kaalia.host.kernel import unreadable

ROOT = Path("/")
_SLICES = ("sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice", "sys/fs/cgroup/unified/system.slice")
"""cgroup v2; v1; v1 with systemd's own hierarchy in v2."""


def running_services(root: Path = ROOT) -> frozenset[str] | None:
    """Names such as `k3s.service`; None: no systemd runs here. Raises HostError `unreadable`."""
    folders = [root / name for name in _SLICES if (root / name).is_dir()]
    if not folders:
        return None
    try:
        return frozenset(path.name for folder in folders for path in folder.iterdir() if path.suffix == ".service")
    except OSError as error:
        raise unreadable("which services run", error.strerror or str(error)) from error
