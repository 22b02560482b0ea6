"""Which device node is whose: `/dev/nvidiaN` of a GPU, as the driver's own files say it. NVML is not asked."""

from pathlib import Path

ROOT = Path("/")
_FOLDER = "proc/driver/nvidia/gpus"


def minors(root: Path = ROOT) -> dict[str, int]:
    """The number N by UUID; empty where the driver does not say, as where there is none."""
    found = {}
    try:
        folders = list((root / _FOLDER).iterdir())
    except OSError:
        return {}
    for folder in folders:
        try:
            lines = (folder / "information").read_text(errors="replace").splitlines()
        except OSError:
            continue
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        uuid, minor = fields.get("GPU UUID", ""), fields.get("Device Minor", "")
        if uuid.startswith("GPU-") and "?" not in uuid and minor.isdecimal():
            found[uuid] = int(minor)
    return found
