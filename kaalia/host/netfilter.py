"""The door to the kernel's packet filter: iptables-restore and iptables-save, and ip6tables' where there is IPv6.

One `apply` is one transaction a table: every line or none, and no packet sees half of it. Only what a change names is
touched, all else on the machine stays. The programs are those of the PATH, so the same that Docker uses.
"""

import asyncio
import errno
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text
from kaalia.host.process import EVIDENCE_CHARACTERS, Result, run

CHAIN_NAME_MAX = 28
"""XT_EXTENSION_MAXNAMELEN of the kernel, without its final zero byte."""
_LOCK_WAIT_S = 5
"""How long iptables waits for others who change rules. They hold the lock for milliseconds."""
_TIMEOUT_S = 20.0
_BUSY = 4
"""iptables' exit code for a lock or resource that it did not get; a refusal by the kernel has the same."""
_OUTPUT_BYTES = 16 * 1024**2
"""Kubernetes machines have tens of thousands of lines, of about 150 bytes."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=!+@%^~-]+")
_COUNTED = re.compile(r"\[(\d+):(\d+)\] ")

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_MESSAGES_BYTES = 65_536

Rule = tuple[str, ...]
"""Words after `-A CHAIN`, such as ("-s", "10.0.0.0/8", "-j", "DROP")."""


class Family(StrEnum):
    """The programs' common beginning."""

    IPV4 = "iptables"
    IPV6 = "ip6tables"


_OR_OFF = {Family.IPV4: "", Family.IPV6: "; or boot without IPv6 (ipv6.disable=1), then nothing is to be filtered"}


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be in one table. `chains`: own chains, made or emptied, then filled, all in one stroke.

    `commands` follow in order, such as ("-I", "FORWARD", "1", "-j", "MINE") or ("-X", "MINE").
    """

    table: str
    chains: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    commands: Sequence[Rule] = ()


@dataclass(frozen=True, slots=True)
class SavedRule:
    """One rule as iptables-save writes it, without `-A CHAIN`; the counters are 0 when they were not asked for."""

    text: str
    packets: int = 0
    wire_bytes: int = 0
    """Bytes of the packets that matched, with their IP headers."""


Saved = dict[str, tuple[SavedRule, ...]]
"""The rules of each chain of one table, in order; chains without rules too."""


def families(root: Path = Path("/")) -> tuple[Family, ...]:
    """Those that this machine's kernel speaks now. With IPv6 every kernel has an address: that of loopback."""
    try:
        has_ipv6 = bool(read_text(root / "proc/net/if_inet6"))
    except HostError:
        has_ipv6 = False
    return (Family.IPV4, Family.IPV6) if has_ipv6 else (Family.IPV4,)


async def apply(family: Family, changes: Iterable[Change]) -> None:
    """Make the changes, table by table; foreign chains and rules stay.

    Raises HostError `firewall_missing`, `firewall_refused` (nothing of that table has changed; the line as evidence),
    `firewall_busy` (somebody else holds the lock), `command_timeout`.
    """
    text = "".join(_lines(change) for change in changes)
    argv = (f"{family}-restore", "--wait", str(_LOCK_WAIT_S), "--noflush")
    await _run(family, argv, "change", text.encode())


async def saved(family: Family, table: str, *, with_counters: bool = False) -> Saved:
    """What the table holds now. Raises HostError like `apply`."""
    argv = [f"{family}-save", "-t", table, *(["-c"] if with_counters else [])]
    result = await _run(family, argv, "read")
    if result.truncated:
        raise HostError("firewall_unreadable", f"cannot read table {table}: it has more than {_OUTPUT_BYTES} bytes")
    return parse(result.stdout)


def parse(text: str) -> Saved:
    """The output of iptables-save for one table. Raises HostError `firewall_unreadable`."""
    found: dict[str, list[SavedRule]] = {}
    for line in text.splitlines():
        counted = _COUNTED.match(line)
        rule = line[counted.end() :] if counted else line
        if rule.startswith(":"):
            found.setdefault(rule[1:].split(" ", 1)[0], [])
        elif rule.startswith("-A "):
            chain, _, words = rule[3:].partition(" ")
            packets, wire_bytes = (int(counted[1]), int(counted[2])) if counted else (0, 0)
            found.setdefault(chain, []).append(SavedRule(words, packets, wire_bytes))
        elif rule and not rule.startswith(("#", "*", "COMMIT")):
            raise HostError("firewall_unreadable", f"cannot read the firewall: iptables-save wrote {rule[:200]!r}")
    return {chain: tuple(rules) for chain, rules in found.items()}


class Ear:
    """Hears what anybody changes in nftables, and so by iptables of the newer kind. Of the older kind nothing is heard.

    `on_change` gets the kernel's messages as they are: names of tables and chains stand in them. Use it in a loop.
    """

    def __init__(self, on_change: Callable[[bytes], None]) -> None:
        """Raises HostError `firewall_unheard`."""
        self._on_change = on_change
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        except OSError as error:
            self._socket.close()
            raise HostError("firewall_unheard", f"cannot hear changes of the firewall: {error}") from error
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        try:
            self._on_change(self._socket.recv(_MESSAGES_BYTES))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_change(b"")  # more than the kernel kept for us


def _lines(change: Change) -> str:
    """One table of the input of iptables-restore."""
    chains = [f":{_name(chain)} - [0:0]" for chain in change.chains]
    rules = [_line(("-A", chain, *rule)) for chain, rules in change.chains.items() for rule in rules]
    commands = [_line(command) for command in change.commands]
    return "\n".join((f"*{_name(change.table)}", *chains, *rules, *commands, "COMMIT\n"))


def _name(name: str) -> str:
    if not _PLAIN.fullmatch(name) or len(name) > CHAIN_NAME_MAX:
        raise HostError("firewall_refused", f"cannot name a chain {name!r}: at most {CHAIN_NAME_MAX} plain letters")
    return name


def _line(words: Rule) -> str:
    return " ".join(word if _PLAIN.fullmatch(word) else _quoted(word) for word in words)


def _quoted(word: str) -> str:
    """A word, such as a comment, as iptables-restore reads it: whatever it holds, it stays one word on one line."""
    if not word.isprintable():
        raise HostError("firewall_refused", f"cannot use {word!r} in a firewall rule: it is no line of text")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def _run(family: Family, argv: Sequence[str], verb: str, stdin: bytes | None = None) -> Result:
    try:
        result = await run(argv, _TIMEOUT_S, _OUTPUT_BYTES, stdin=stdin)
    except HostError as error:
        if error.code != "command_missing":
            raise
        raise HostError(
            "firewall_missing",
            f"cannot {verb} the firewall: {argv[0]} is not on this machine",
            remedy="install iptables: apt-get install iptables",
        ) from error
    if result.exit_code == 0:
        return result
    evidence = (result.stderr or result.stdout).strip()[-EVIDENCE_CHARACTERS:]
    if result.exit_code == _BUSY and "xtables lock" in evidence:
        raise HostError(
            "firewall_busy",
            f"cannot {verb} the firewall: another program has held its lock for {_LOCK_WAIT_S} s",
            remedy="see which one: fuser -v /run/xtables.lock",
            evidence=evidence,
        )
    raise HostError(
        "firewall_refused",
        f"cannot {verb} the firewall: {argv[0]} ended with {result.exit_code}",
        remedy=f"run `{family}-save` as root to see whether the kernel has the modules of {family}{_OR_OFF[family]}",
        evidence=evidence,
    )
