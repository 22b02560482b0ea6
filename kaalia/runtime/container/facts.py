"""What the engine says of itself (`/version`, `/info`) and what lies beside it on the disk, as `Engine`."""

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.model.machine import Engine

OLDEST_API, NEWEST_API = "1.41", "1.47"
"""Docker 20.10 to 27; a newer engine still speaks 1.47."""

CDI_KIND = "nvidia.com/gpu"

_GPU_NAME = re.compile(r"name:?\W+(GPU-[0-9a-f-]+)")
_HOOK = "nvidia-container-runtime-hook"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAP_SYS_RESOURCE = 24
_UNLIMITED = -1
_ULIMITS = {
    "nofile": ("Max open files", 1_048_576, 1_048_576),
    "memlock": ("Max locked memory", _UNLIMITED, _UNLIMITED),
    "stack": ("Max stack size", 64 * 1024**2, _UNLIMITED),
}
"""Name, its line in /proc/<pid>/limits, soft and hard value. NVIDIA asks for the last two for its containers; what a
container locks still counts as its memory."""
_QUOTA_OPTIONS = frozenset({"pquota", "prjquota"})


def agreed_api(version: Mapping[str, Any]) -> str:
    """The API version to speak, given what `/version` offers. Raises WorkloadError `engine_too_old`."""
    newest, least = str(version["ApiVersion"]), str(version.get("MinAPIVersion", OLDEST_API))
    if _parsed(newest) < _parsed(OLDEST_API):
        raise WorkloadError(
            "engine_too_old",
            f"cannot use Docker {version.get('Version')}: it speaks API {newest}, {OLDEST_API} is needed",
            remedy="install Docker 20.10 or newer",
        )
    return max(min(newest, NEWEST_API, key=_parsed), least, key=_parsed)


def engine_facts(
    version: Mapping[str, Any],
    info: Mapping[str, Any],
    *,
    mounts: Iterable[str],
    cdi_devices: Sequence[str],
    has_gpu_hook: bool,
) -> Engine:
    """`mounts`: lines of /proc/mounts. `cdi_devices`: fully qualified names that the engine can hand out."""
    data_root = str(info.get("DockerRootDir", ""))
    return Engine(
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        storage_driver=str(info.get("Driver", "")),
        data_root=data_root,
        cgroup_version=str(info.get("CgroupVersion", "1")),
        live_restore=bool(info.get("LiveRestoreEnabled", False)),
        enforces_disk_size=_enforces_disk_size(info, data_root, mounts),
        gpu_mode=_gpu_mode(version, info, cdi_devices, has_gpu_hook),
        default_runtime=str(info.get("DefaultRuntime", "")),
    )


def _enforces_disk_size(info: Mapping[str, Any], data_root: str, mounts: Iterable[str]) -> bool:
    """Docker limits a container's disk on btrfs and zfs, and on overlay2 over xfs with project quotas."""
    driver = info.get("Driver")
    if driver in {"btrfs", "zfs"}:
        return True
    backing = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == 2).get("Backing Filesystem")
    return driver == "overlay2" and backing == "xfs" and bool(_mount_options(data_root, mounts) & _QUOTA_OPTIONS)


def _mount_options(path: str, mounts: Iterable[str]) -> frozenset[str]:
    """Options of the mount that holds `path`: the longest mount point that leads to it, the last of equals."""
    best, options = "", frozenset[str]()
    for line in mounts:
        fields = line.split()
        if len(fields) < 4:
            continue
        point = fields[1]
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, options = point, frozenset(fields[3].split(","))
    return options


def _gpu_mode(
    version: Mapping[str, Any], info: Mapping[str, Any], cdi_devices: Sequence[str], has_gpu_hook: bool
) -> str:
    """CDI from API 1.44 on, when the engine has spec directories and a GPU is named by UUID there; else the hook."""
    knows_cdi = _parsed(str(version.get("ApiVersion", "0.0"))) >= (1, 44) and bool(info.get("CDISpecDirs"))
    if knows_cdi and any(name.startswith(f"{CDI_KIND}=GPU-") for name in cdi_devices):
        return "cdi"
    return "device_request" if has_gpu_hook else "none"


def cdi_devices(info: Mapping[str, Any]) -> list[str]:
    """GPUs that the engine hands out by CDI: Docker 28.2 lists them, older ones only name the spec folders."""
    discovered = info.get("DiscoveredDevices")
    if discovered:
        return [str(device.get("ID", "")) for device in discovered]
    names = []
    for folder in info.get("CDISpecDirs") or []:
        for file in sorted(Path(folder).glob("*")):
            text = file.read_text(errors="replace") if file.suffix in {".json", ".yaml", ".yml"} else ""
            if CDI_KIND in text:
                names += [f"{CDI_KIND}={name}" for name in _GPU_NAME.findall(text)]
    return names


def has_gpu_hook(engine_pid: int) -> bool:
    """True when the engine finds NVIDIA's hook in its own PATH.

    A socket that systemd opened belongs to systemd: then the default PATH of systemd's units counts.
    """
    path = _SYSTEM_PATH
    process = Path("/proc") / str(engine_pid)
    if engine_pid > 0 and process.is_dir() and (process / "comm").read_text().strip() == "dockerd":
        variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        path = next((text[5:] for text in variables if text.startswith("PATH=")), path)
    return shutil.which(_HOOK, path=path) is not None


def ulimits(engine_pid: int) -> list[dict[str, Any]]:
    """The resource limits of a tenant's processes, in Docker's form.

    An engine without CAP_SYS_RESOURCE, as inside another container, hands out no more than it has itself.
    """
    process = Path("/proc") / str(engine_pid if engine_pid > 0 else "self")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    lines = (process / "limits").read_text().splitlines()
    can_raise = bool(int(status["CapEff"], 16) >> _CAP_SYS_RESOURCE & 1)
    limits = []
    for name, (title, soft, hard) in _ULIMITS.items():
        own = next(line[len(title) :].split()[1] for line in lines if line.startswith(title))
        ceiling = _UNLIMITED if can_raise or own == "unlimited" else int(own)
        limits.append({"Name": name, "Soft": _lower(soft, ceiling), "Hard": _lower(hard, ceiling)})
    return limits


def _lower(value: int, ceiling: int) -> int:
    finite = [number for number in (value, ceiling) if number != _UNLIMITED]
    return min(finite, default=_UNLIMITED)


def _parsed(api_version: str) -> tuple[int, int]:
    major, _, minor = api_version.partition(".")
    return int(major), int(minor or 0)
