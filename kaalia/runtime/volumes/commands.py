"""The programs that make and remove volumes. In the daemon's sandbox they are run by systemd, outside of it.

Arguments are paths that `Place` built and numbers, never a word of a renter's.
"""

from pathlib import Path

from kaalia.host import outside
from kaalia.host.process import Result, run

SHORT_S = 60.0
LONG_S = 6 * 3600.0
"""Making and copying hundreds of gigabytes."""


async def command(*argv: str | Path, timeout_s: float = SHORT_S, stdin: bytes | None = None) -> Result:
    """Run to the end. Raises HostError `command_failed`, `command_missing`, `command_timeout`."""
    words = [*await outside.prefix(), *map(str, argv)]
    return await run(words, timeout_s, env=outside.ENVIRONMENT, stdin=stdin, check=True)
