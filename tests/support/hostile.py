"""An image whose files try to lead out of it, the paths by which one might follow them, and witnesses outside.

For whatever works among an instance's files on behalf of its renter: nothing below may be read, changed or removed.
"""

import hashlib
import io
import os
import posixpath
import random
import secrets
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path

from tests.support.images import rootfs

HOME = "h"
"""Folder of the image in which it all lies."""
VOLUME = "/data"
CHAIN = 45
"""Links in a row; Linux follows 40."""
_UP = "../" * 12


@dataclass(frozen=True)
class Outside:
    """Witnesses. `named`: asked for by name; `secret`: never asked for, so whoever says it has read it."""

    folder: Path
    named: str = field(default_factory=lambda: f"witness-{secrets.token_hex(8)}")
    secret: str = field(default_factory=lambda: f"secret-{secrets.token_hex(8)}")
    more: tuple[Path, ...] = ()
    """Further files of the machine that must stay as they are."""

    def make(self) -> None:
        for name in (self.named, self.secret, f"deep/{self.named}", f"deep/{self.secret}"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {self.secret}\n")

    def state(self) -> dict[str, tuple[object, ...]]:
        """All that can be seen of them but when they were read last."""
        paths = sorted({self.folder, *self.folder.rglob("*"), *self.more})
        return {str(path): _state(path) for path in paths}


def _state(path: Path) -> tuple[object, ...]:
    try:
        found = path.lstat()
    except OSError as error:
        return (error.errno,)
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(found.st_mode) else ""
    return (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_size, found.st_mtime_ns, content)


def links(outside: Outside, places: dict[str, str]) -> dict[str, str]:
    """Symbolic links, by name. `places`: further folders of the machine worth a visit."""
    folder = str(outside.folder)
    return {
        "abs": folder,
        "abs-file": f"{folder}/{outside.named}",
        "parent": posixpath.dirname(folder),
        "relative": f"{_UP}{folder[1:]}",
        "slashes": f"//{folder}//",
        "dots": f"/.././..{folder}/.",
        "root": "/",
        "up": _UP,
        "up-one": "..",
        "here": ".",
        "loop": "loop",
        "nowhere": "/h/nowhere",
        "proc": "/proc/self/root",
        "proc-one": "/proc/1/root",
        "proc-cwd": "/proc/self/cwd",
        "proc-fd": "/proc/self/fd/3",
        "proc-task": "/proc/thread-self/root",
        "dev-fd": "/dev/fd/4",
        "through": f"abs/../../../../../../..{folder}",
        "onto-a-pipe": "pipe",
        "into-the-volume": f"{VOLUME}/abs",
        **{f"place-{name}": place for name, place in places.items()},
        "chain-0": folder,
        **{f"chain-{number}": f"chain-{number - 1}" for number in range(1, CHAIN)},
    }


def image(outside: Outside, places: dict[str, str], disk: int) -> bytes:
    """A root file system as a tar: that of the demo with links, devices, pipes and names. `disk`: a block device."""
    buffer = io.BytesIO(rootfs())
    with tarfile.open(fileobj=buffer, mode="a", errors="surrogateescape") as tar:
        for folder in (HOME, f"{HOME}/names", f"{HOME}/deep", f"{HOME}/deep/er", "data", "swap"):
            _add(tar, folder, tarfile.DIRTYPE, mode=0o755)
        for name, target in links(outside, places).items():
            _add(tar, f"{HOME}/{name}", tarfile.SYMTYPE, linkname=target)
        _add(tar, f"{HOME}/deep/er/out", tarfile.SYMTYPE, linkname=f"../../..{outside.folder}")
        for name, kind, device in (("null", tarfile.CHRTYPE, (1, 3)), ("kmsg", tarfile.CHRTYPE, (1, 11))):
            _add(tar, f"{HOME}/{name}", kind, device=device)
        _add(tar, f"{HOME}/disk", tarfile.BLKTYPE, device=(os.major(disk), os.minor(disk)))
        _add(tar, f"{HOME}/pipe", tarfile.FIFOTYPE)
        for name in names():
            _add(tar, f"{HOME}/names/{name}", tarfile.REGTYPE)
        _add(tar, f"{HOME}/first", tarfile.REGTYPE)
        _add(tar, f"{HOME}/second", tarfile.LNKTYPE, linkname=f"{HOME}/first")
    return buffer.getvalue()


def names() -> list[str]:
    """Of files, each of them legal."""
    strange = os.fsdecode(b"\xff\xfe\x80")
    return [
        "-rf",
        "--",
        "--help",
        "two\nlines",
        "\r",
        strange,
        " ",
        "*",
        "$(reboot)",
        "`reboot`",
        "a;b",
        "...",
        "x" * 250,
    ]


def _add(
    tar: tarfile.TarFile,
    path: str,
    kind: bytes,
    linkname: str = "",
    device: tuple[int, int] = (0, 0),
    mode: int = 0o666,
) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.linkname = kind, mode, linkname
    entry.devmajor, entry.devminor = device
    tar.addfile(entry)


def paths(outside: Outside, places: dict[str, str], pids: list[int], seed: int, count: int) -> list[tuple[str, str]]:
    """`count` paths that may lead out, each with its kind: as many of every kind as there are, others by chance."""
    chance = random.Random(seed)
    kinds = {
        "direct": list(_direct(outside)),
        "process": list(_by_process(outside, pids)),
        "link": list(_by_link(outside, places)),
        "volume": list(_by_volume(outside)),
        "name": [f"/{HOME}/names/{name}" for name in names() if name.isascii()] + [f"/{HOME}/names", "--", "-rf"],
        "node": [
            f"/{HOME}/{name}{end}"
            for name in ("pipe", "null", "kmsg", "disk", "onto-a-pipe")
            for end in ("", "/", "/x")
        ],
        "hard link": [f"/{HOME}/first", f"/{HOME}/second"],
    }
    for found in kinds.values():
        chance.shuffle(found)
    turns = chain.from_iterable(zip_longest(*([(kind, path) for path in found] for kind, found in kinds.items())))
    mixed = list(dict.fromkeys(turn for turn in turns if turn is not None))
    return mixed[:count]


def _direct(outside: Outside) -> Iterator[str]:
    for target in (str(outside.folder), f"{outside.folder}/{outside.named}", f"{outside.folder}/deep"):
        yield from (target, f"/{target}", f"/.{target}", f"{target}/", f"{target}/.", f"//./{target}")
        for count in (1, 2, 5, 12, 30):
            yield from (
                f"{'/..' * count}{target}",
                f"{'../' * count}{target[1:]}",
                f"/{HOME}/{'../' * count}{target[1:]}",
            )
        yield from (f"/{HOME}/deep/../..{target}", f"/{HOME}/names/..//../.{target}", f"/bin/busybox/..{target}")


def _by_process(outside: Outside, pids: list[int]) -> Iterator[str]:
    numbers = ["self", "thread-self", *map(str, pids)]
    for target in (str(outside.folder), f"{outside.folder}/{outside.named}"):
        for number in numbers:
            yield from (f"/proc/{number}/root{target}", f"/proc/{number}/cwd/..{target}", f"/proc/{number}/cwd")
            yield from (f"/proc/{number}/fd", f"/proc/{number}/root/proc/{number}/root{target}")
    yield from (f"/proc/self/fd/{number}/../{outside.named}" for number in range(8))
    yield from (f"/dev/fd/{number}" for number in range(8))
    yield from (
        "/proc",
        "/sys/fs/cgroup",
        "/sys/class/block",
        "/dev/shm/..",
        "/dev/pts/../..",
        "/.kaalia/..",
        "/run/../..",
    )


def _by_link(outside: Outside, places: dict[str, str]) -> Iterator[str]:
    folder = str(outside.folder)
    for name in [*links(outside, places), "deep/er/out"]:
        link = f"/{HOME}/{name}"
        yield from (
            link,
            f"{link}/",
            f"{link}/.",
            f"{link}/..",
            f"{link}/{outside.named}",
            f"{link}/deep/{outside.named}",
        )
        yield from (
            f"{link}{folder}",
            f"{link}/../{posixpath.basename(folder)}",
            f"{link}/../..{folder}/{outside.named}",
        )


def _by_volume(outside: Outside) -> Iterator[str]:
    for name in ("abs", "up", "sibling", "key"):
        link = f"{VOLUME}/{name}"
        yield from (link, f"{link}/", f"{link}/{outside.named}", f"{link}{outside.folder}", f"{link}/..")
    for count in (1, 2, 3, 8):
        yield f"{VOLUME}{'/..' * count}{outside.folder}"
        yield f"{VOLUME}{'/..' * count}/V.1.key"


def fill_volume(outside: Outside) -> str:
    """A shell command that does in a volume what the image does in its root."""
    targets = {"abs": str(outside.folder), "up": _UP, "sibling": "../../V.2/data", "key": "../../V.1.key"}
    return "; ".join(f"ln -sfn {target} {VOLUME}/{name}" for name, target in targets.items())


def leads_out(root: Path, path: str) -> bool:
    """Where the path would lead for someone who joins it to `root`, as strings or by `os.path.join`, and opens it."""
    reals = [Path(os.path.realpath(joined)) for joined in (f"{root}/{path}", os.path.join(root, path))]  # noqa: PTH118
    return any(os.path.lexists(real) and not real.is_relative_to(root) for real in reals)
