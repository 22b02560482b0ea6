"""Commands that are programs of their own: `kaalia status` need not import what they need, nor they what it does."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PROGRAMS = {
    "enroll": "Enrol this machine with a marketplace.",
    "notify": "Show by which channels the owner is told what happens here; --test tries them.",
    "nvml": "Ask the NVIDIA driver, and show what it says; hosts know it as test_nvml.py.",
    "send-report": "Have the machine read and reported now; hosts know it as send_mach_info.py.",
    "power": "Show power limits and clocks, and what the policy would do; --restore puts them back.",
    "self-test": "Prove this machine: GPUs, memory, links, CPU, disk, network and ports; nothing is rented for it.",
    "support-bundle": "Write what helps to find a fault into a file, without secrets; nothing is sent.",
    "probe": "Be a prober: try the ports of machines that ask for it, and measure their speed.",
    "relay": "Be a relay: let renters in to machines without open ports.",
    "marketplace": "Run the reference marketplace: serve, users, enrolment tokens.",
}
"""Commands that are modules to be run, `kaalia.cli.commands.<name>`; they print their own help."""


def module(name: str) -> str:
    """Of a program: what `python -m` takes."""
    return f"kaalia.cli.commands.{name.replace('-', '_')}"


def become(module: str, args: Sequence[str]) -> NoReturn:
    """Go on as another program of kaalia: nothing of this one stays in memory."""
    # The current folder is trusted by the new interpreter only if this one trusts it already.
    safe = [] if str(Path.cwd()) in sys.path else ["-P"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *safe, "-m", module, *args])  # noqa: S606 no shell
