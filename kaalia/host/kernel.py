"""Small files of the kernel: read one value, or say in words why it cannot be had."""

from pathlib import Path

from kaalia.errors import HostError


def read_text(path: Path) -> str:
    """The stripped content. Raises HostError `unreadable`; sysfs files may exist and still refuse to be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        raise unreadable(str(path), error.strerror or str(error)) from error


def unreadable(what: str, reason: str) -> HostError:
    return HostError("unreadable", f"cannot read {what}: {reason}")
