"""The programs that make and remove volumes. In the daemon's sandbox they are run by systemd, outside of it.

Arguments are paths that `Place` built and numbers, never a word of a renter's.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from kaalia.host.process import Result, run

SHORT_S = 60.0
LONG_S = 6 * 3600.0
"""Making and copying hundreds of gigabytes."""
_ENV = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_OUTSIDE = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--")
_CAP_SYS_ADMIN = 21


def is_sandboxed(status: str) -> bool:
    """By the text of /proc/self/status: this process may not mount."""
    held = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return not int(held, 16) >> _CAP_SYS_ADMIN & 1


async def command(*argv: str | Path, timeout_s: float = SHORT_S, stdin: bytes | None = None) -> Result:
    """Run to the end. Raises HostError `command_failed`, `command_missing`, `command_timeout`."""
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    prefix: Sequence[str] = _OUTSIDE if is_sandboxed(status) else ()
    return await run([*prefix, *map(str, argv)], timeout_s, env=_ENV, stdin=stdin, check=True)
