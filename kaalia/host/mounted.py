"""Which folders anybody on this machine has mounted somewhere, in whatever mount namespace."""

import errno
from pathlib import Path

_ENDED = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
"""What /proc says of a process that is no more, or not buried yet."""


def names(processes: Path = Path("/proc")) -> frozenset[str]:
    """The last part of the path of each, within its file system. Raises OSError when a process cannot be looked at."""
    found: set[str] = set()
    for process in processes.iterdir():
        if not process.name.isdigit():
            continue
        try:
            lines = (process / "mountinfo").read_text(errors="replace").splitlines()
        except OSError as error:
            if error.errno not in _ENDED:
                raise
            continue
        found |= {fields[3].rpartition("/")[2] for line in lines if len(fields := line.split()) > 3}
    return frozenset(found)
