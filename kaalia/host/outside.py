"""Programs that need more rights than the daemon's sandbox leaves it: there systemd runs them, outside of it."""

import asyncio
from pathlib import Path

ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""For such a program; what systemd runs has one of its own."""
_BY_SYSTEMD = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect")
_CAP_SYS_ADMIN = 21


def is_sandboxed(status: str) -> bool:
    """By the text of /proc/self/status: this process may not mount."""
    held = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return not int(held, 16) >> _CAP_SYS_ADMIN & 1


async def prefix(*limits: str) -> tuple[str, ...]:
    """What an argument list has to begin with to be run outside.

    `limits`: settings of systemd.resource-control(5), such as `TasksMax=64`. A program that needs no systemd to be run
    so must keep to limits of its own.
    """
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    return by_systemd(*limits) if is_sandboxed(status) else ()


def by_systemd(*limits: str) -> tuple[str, ...]:
    return (*_BY_SYSTEMD, *(f"--property={one}" for one in limits), "--")
