"""Whether Debian's package system updates this machine by itself, and which packages it would leave alone.

`root` is the file system that holds /etc, /usr and /var; tests give their own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import unreadable

ROOT = Path("/")
_TOKEN = re.compile(r'"(?P<text>[^"]*)"|(?P<mark>[{};])|(?P<word>[^\s{};"]+)')
_COMMENT = re.compile(r'("[^"]*")|//[^\n]*|(?:^|(?<=\s))#(?!clear|include)[^\n]*|/\*.*?\*/', re.DOTALL)
_FIELDS = ("Package", "Status", "Architecture")
_SWITCH = "apt::periodic::unattended-upgrade"
_BLACKLIST = "unattended-upgrade::package-blacklist"


@dataclass(frozen=True, slots=True)
class Upgrades:
    """`exposed`: installed packages that unattended upgrades may replace, of those that were asked for."""

    is_on: bool
    exposed: tuple[str, ...]


def upgrades(watched: Sequence[str], root: Path = ROOT) -> Upgrades | None:
    """`watched`: patterns for the beginning of a name. None: this machine has no dpkg. Reads some MB.

    Raises HostError `unreadable`.
    """
    status = root / "var/lib/dpkg/status"
    if not status.exists():
        return None
    try:
        settings = tuple(_settings(root / "etc/apt"))
        if not (root / "usr/bin/unattended-upgrade").exists() or not _is_on(settings):
            return Upgrades(False, ())
        blacklist = tuple(value for name, value in settings if name == _BLACKLIST)
        return Upgrades(True, tuple(_exposed(status, re.compile("|".join(watched)), blacklist)))
    except (OSError, HostError) as error:
        raise unreadable("what updates packages here", str(error)) from error


def stamp(root: Path = ROOT) -> tuple[object, ...]:
    """Changes when packages or settings do. Cheap."""
    paths = [root / "var/lib/dpkg/status", *sorted((root / "etc/apt").glob("apt.conf.d/*"))]
    return tuple((path.name, path.stat().st_mtime_ns) for path in paths if path.exists())


def _is_on(settings: Iterable[tuple[str, str]]) -> bool:
    """The last word counts: days between two runs, `always`, or 0."""
    values = [value for name, value in settings if name == _SWITCH]
    return bool(values) and values[-1].strip().lower() not in ("", "0", "false", "no", "off")


def _exposed(status: Path, watched: re.Pattern[str], blacklist: tuple[str, ...]) -> Iterator[str]:
    """Installed, not on hold, and not on the blacklist, whose entries are patterns for the beginning of a name.

    As apt-mark takes them: those of a foreign architecture (32-bit libraries) with it, since they are held apart.
    """
    found, native = [], ""
    for name, state, architecture in _installed(status):
        if name == "dpkg":
            native = architecture
        if state.startswith("install ok installed") and watched.match(name):
            found.append((name, architecture))
    for name, architecture in found:
        if not any(_matches(pattern, name) for pattern in blacklist):
            is_foreign = architecture not in (native, "all", "") and native
            yield f"{name}:{architecture}" if is_foreign else name


def _installed(status: Path) -> Iterator[tuple[str, str, str]]:
    """(name, state, architecture) of each package that dpkg knows; a blank line ends one."""
    known = dict.fromkeys(_FIELDS, "")
    with status.open(errors="replace") as file:
        for line in file:
            name, _, value = line.partition(": ")
            if name in known:
                known[name] = value.strip()
            elif line == "\n":
                yield known["Package"], known["Status"], known["Architecture"]
                known = dict.fromkeys(_FIELDS, "")
    yield known["Package"], known["Status"], known["Architecture"]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


def _settings(folder: Path) -> Iterator[tuple[str, str]]:
    """(name in lower case, value) as apt reads them; an entry of a list has the name of the list: apt.conf(5)."""
    parts = folder / "apt.conf.d"
    files = sorted(parts.iterdir()) if parts.is_dir() else []
    own = [path for path in files if path.is_file() and re.fullmatch(r"[\w-]+(?:\.conf)?", path.name)]
    for path in (*own, *([folder / "apt.conf"] if (folder / "apt.conf").is_file() else [])):
        yield from parse(path.read_text(errors="replace"))


def parse(text: str) -> Iterator[tuple[str, str]]:
    """The settings of one file of apt's."""
    scopes: list[str] = []
    name = ""
    for token in _TOKEN.finditer(_COMMENT.sub(lambda found: found[1] or " ", text)):
        if token["mark"] == "{":
            scopes.append(name)
            name = ""
        elif token["mark"] == "}":
            scopes = scopes[:-1]
            name = ""
        elif token["mark"] == ";":
            name = ""
        elif token["text"] is not None:
            full = "::".join(part for part in (*scopes, name.rstrip(":")) if part).lower()
            yield full, token["text"]
        else:
            name = token["word"]
