"""What a cell (`transfer.cell`) is told: the daemon writes it into a file, and the program reads it. Pure.

Apart from the program, whose system calls the daemon has no use for.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

PROGRAM = "kaalia.transfer.cell"
OUTLET = "kaalia.transfer.outlet"
FAILED, SOURCE_MISSING, TARGET_UNUSABLE = 70, 71, 72
"""Exit codes: the cell could not be made (sysexits.h: EX_SOFTWARE); a path of its route leads nowhere."""
OUTLET_UNFIT = 73
"""Of an outlet that could not give up its rights."""
OUTLET_PORT = 1080
"""Of a cell's own loopback: there it has its outlet, by SOCKS 5."""
GIVEN_MAX_BYTES = 64 * 1024
"""Of the environment that comes over a cell's line."""
LINE_IN, LINE_OUT = 3, 4
"""Where the program of a cell with a line finds it; what it prints goes to standard error."""
_OUTLET_LISTS = ("allowed", "pool", "lan")


def outlet_words(*lists: Iterable[str]) -> tuple[str, ...]:
    """The arguments of an outlet: networks that are allowed, those of tenants, and the LAN."""
    return tuple(f"{name}={one}" for name, found in zip(_OUTLET_LISTS, lists, strict=True) for one in found)


def outlet_lists(words: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The other way round."""
    given = [one.partition("=")[::2] for one in words]
    return tuple(tuple(one for name, one in given if name == wanted) for wanted in _OUTLET_LISTS)


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of this machine, and where the cell sees it. `process`: in whose mounts `source` is found."""

    source: str
    target: str
    is_read_only: bool = True
    runs_programs: bool = False
    process: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Two paths, each inside something that the cell shows, which become the last words of the program's arguments.

    Links are followed as in that tree alone. One of them None: it is elsewhere, and in the arguments already.
    """

    source_tree: str = ""
    source: str | None = None
    target_tree: str = ""
    target: str | None = None
    is_followed: bool = False
    """The source's last part too, where it is a link, and a target without a slash is a folder."""


@dataclass(frozen=True, slots=True)
class Cell:
    """`files`: small ones that are made, by path. `argv[0]` is a path inside the cell."""

    binds: tuple[Bind, ...]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    watched: tuple[int, ...] = ()
    """Processes without which the cell has no right to go on: it is killed when one of them ends."""
    route: Route | None = None
    has_line: bool = False
    """Standard input and output are a line to elsewhere (LINE_IN, LINE_OUT), and the cell ends when that is cut."""
    has_outlet: bool = False
    """The line is not the program's: over it came more of its environment, and went the outlet's socket.

    See `transfer.outlet`.
    """
    reserves_memory: bool = False
    """Its program takes more addresses than memory, so that what it may write is bounded in place of them."""
    words_after: tuple[str, ...] = ()
    """Of the arguments, behind the route."""


def encode(cell: Cell) -> str:
    return json.dumps(asdict(cell))


def decode(text: str) -> Cell:
    raw: dict[str, Any] = json.loads(text)
    binds = tuple(Bind(**one) for one in raw["binds"])
    route = None if raw["route"] is None else Route(**raw["route"])
    words: dict[str, Any] = {name: tuple(raw[name]) for name in ("folders", "argv", "watched", "words_after")}
    words |= {name: raw[name] for name in ("files", "env", "has_line", "has_outlet", "reserves_memory")}
    return Cell(binds=binds, route=route, **words)
