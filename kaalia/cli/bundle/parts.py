"""What a support bundle is made of: each part is a file in it, or the reason why it could not be had. Changes nothing.

Of the daemon: what it answers, or, when it is down, what its database says. Of the machine: what a few commands print,
each with a limit of time and size. Never: environments, scripts, keys, logins, contents of instances.
"""

import asyncio
import platform
import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic_core import to_json

from kaalia import __version__
from kaalia.client import LocalClient
from kaalia.config import Config
from kaalia.errors import KaaliaError
from kaalia.host import process
from kaalia.store import conditions, machine, overview
from kaalia.store.database import Transaction, read_only
from kaalia.units import MIB

COMMAND_TIMEOUT_S = 20.0
PART_MAX_BYTES = 2 * MIB
LOG_LINES = 2000
KERNEL_LINES = 500
PAST_MAX = 500
KERNEL = re.compile(
    r"NVRM|nvidia|NVLink|nvswitch|AER:|Out of memory|oom-kill|I/O error|blocked for more|Hardware Error"
    r"|(?:EXT4|XFS|BTRFS)\b.*(?:error|corrupt)|Link is Down|hung_task",
    re.IGNORECASE,
)
_OURS = re.compile(r"(?:^|\s)KAALIA[-\w]*|:KAALIA")


@dataclass(frozen=True, slots=True)
class Part:
    """`text` None: `why` it is missing. `about`: where it comes from."""

    name: str
    about: str
    text: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    about: str
    read: Callable[[], Awaitable[str]]


async def collect(config: Config, config_text: str, client: LocalClient, now: datetime, lines: int) -> list[Part]:
    """All parts, at most three at a time."""
    gate = asyncio.Semaphore(3)

    async def one(source: Source) -> Part:
        async with gate:
            try:
                text = await source.read()
            except KaaliaError as error:
                return Part(source.name, source.about, None, str(error))
            except (OSError, ValueError) as error:  # where much is broken, the rest is wanted all the more
                return Part(source.name, source.about, None, f"cannot be had: {error!r}")
        return Part(source.name, source.about, text)

    sources = _sources(config, config_text, client, now, lines)
    return list(await asyncio.gather(*(one(source) for source in sources)))


def _sources(config: Config, config_text: str, client: LocalClient, now: datetime, lines: int) -> list[Source]:
    state = config.database_path
    unit = ("journalctl", "--no-pager", "--unit", "kaalia.service", "--lines", str(lines), "--output", "short-iso")
    docker = ("docker", "--host", config.docker.host)
    return [
        Source("versions.json", "kaalia, Python, kernel, libraries", lambda: _thread(lambda: _versions(now))),
        Source("config.json", "the configuration as it is in force, without what is secret", _given(config_text)),
        Source("status.json", "kaalia status --json", lambda: _thread(lambda: _json(client.status()))),
        Source("doctor.json", "kaalia doctor --json; with the daemon down from its state", _doctor(client, state, now)),
        Source("report.json", "kaalia report --json; with the daemon down from its state", _report(client, state)),
        Source("ports.json", "kaalia ports --json", lambda: _thread(lambda: _json(client.ports()))),
        Source("speed.json", "kaalia speedtest --json", lambda: _thread(lambda: _json(client.speed()))),
        Source("canary.json", "kaalia canary --json", lambda: _thread(lambda: _json(client.canary()))),
        Source("self-test.json", "the newest self-test", lambda: _thread(lambda: _json(client.self_test()))),
        Source("reliability.json", "outages and what they cost", lambda: _thread(lambda: _json(client.reliability()))),
        Source("metrics.txt", "kaalia metrics", lambda: _thread(client.metrics)),
        Source("state.json", "how many rows the state holds of what", _state(state, overview.counts)),
        Source("daemon.log", f"the last {lines} lines of the daemon's log", _command(unit)),
        Source(
            "unit.txt", "systemctl status kaalia", _command(("systemctl", "--no-pager", "status", "kaalia"), {0, 3, 4})
        ),
        Source("kernel.log", "lines of this boot's kernel log about GPUs, disks, memory", _kernel),
        Source("docker-info.json", "docker info", _command((*docker, "info", "--format", "{{json .}}"))),
        Source("docker-version.txt", "docker version", _command((*docker, "version"))),
        Source("iptables.txt", "kaalia's own chains of the firewall", _chains("iptables-save")),
        Source("ip6tables.txt", "the same for IPv6", _chains("ip6tables-save")),
        Source("disks.txt", "lsblk, df", _several(("lsblk", "-o", "NAME,SIZE,TYPE,FSTYPE,MODEL,ROTA"), ("df", "-hT"))),
        Source("nvidia-smi.txt", "nvidia-smi", _command(("nvidia-smi",))),
    ]


def configuration(config: Config) -> str:
    """As JSON. A webhook's path may be a password: only the host is told, and of mail no addresses."""
    document = config.model_dump(mode="json")
    for name, hook in config.notify.webhooks.items():
        parts = urlsplit(hook.url)
        document["notify"]["webhooks"][name]["url"] = f"{parts.scheme}://{parts.netloc}/..."
    for mail in document["notify"]["mails"].values():
        mail["sender"], mail["to"] = "...", len(mail["to"])
    return _json(document)


def _given(text: str) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        return text

    return read


def _doctor(client: LocalClient, state: Path, now: datetime) -> Callable[[], Awaitable[str]]:
    def of_state(tx: Transaction) -> dict[str, Any]:
        return {"as_of": now, "open": conditions.all_open(tx), "past": conditions.past(tx, PAST_MAX)}

    return lambda: _thread(lambda: _json(_or_state(client.health, state, of_state)))


def _report(client: LocalClient, state: Path) -> Callable[[], Awaitable[str]]:
    return lambda: _thread(lambda: _json(_or_state(client.report, state, machine.get_report)))


def _or_state(ask: Callable[[], Any], state: Path, of_state: Callable[[Transaction], Any]) -> Any:
    """What the daemon answers; when it does not, what its database says. Raises the daemon's error when both fail."""
    try:
        return ask()
    except KaaliaError as error:
        try:
            return read_only(state, of_state)
        except KaaliaError:
            raise error from None


def _state(state: Path, work: Callable[[Transaction], Any]) -> Callable[[], Awaitable[str]]:
    return lambda: _thread(lambda: _json(read_only(state, work)))


def _command(argv: tuple[str, ...], fine: Iterable[int] = (0,)) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        done = await process.run(argv, COMMAND_TIMEOUT_S, PART_MAX_BYTES)
        failed = "" if done.exit_code in fine else f"\n[exit code {done.exit_code}]"
        return f"{done.stdout}{done.stderr}{failed}"

    return read


def _several(*commands: tuple[str, ...]) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        return "\n".join([f"$ {' '.join(argv)}\n{await _command(argv)()}" for argv in commands])

    return read


async def _kernel() -> str:
    """Of the journal, or of the kernel's ring where there is none."""
    try:
        text = await _command(("journalctl", "--no-pager", "--dmesg", "--boot", "--output", "short-iso"))()
    except KaaliaError:
        text = await _command(("dmesg", "--time-format", "iso"))()
    lines = [line for line in text.splitlines() if KERNEL.search(line)]
    return "\n".join([*lines[-KERNEL_LINES:], ""])


def _chains(program: str) -> Callable[[], Awaitable[str]]:
    """Tables, the chains that are kaalia's, their rules, and the jumps into them: no rule of anybody else's."""

    async def read() -> str:
        text = await _command((program,))()
        return "\n".join([line for line in text.splitlines() if line.startswith("*") or _OURS.search(line)] + [""])

    return read


def _versions(now: datetime) -> str:
    wanted = (each.split(">")[0].split("<")[0].split(";")[0].strip() for each in metadata.requires("kaalia") or ())
    names = sorted({name for name in wanted if name and "extra" not in name})
    return _json(
        {
            "collected_at": now,
            "kaalia": __version__,
            "python": sys.version,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "system": _system(),
            "libraries": {name: _version(name) for name in names},
        }
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _json(document: Any) -> str:
    return to_json(document, indent=2).decode() + "\n"


async def _thread(work: Callable[[], str]) -> str:
    return await asyncio.to_thread(work)
