"""A root filesystem of this machine's own Python, as it runs here, and a folder of packages: no registry is asked.

Everything keeps its path, so that what finds it here finds it there: the loader, run paths, Python's own search.
"""

import asyncio
import io
import os
import re
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from kaalia.host.process import run

PROGRAM = "usr/local/bin/python3"
PACKAGES = "opt/packages"
LDD_S = 30.0
_LEFT_OUT = frozenset(
    {
        *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data"),
        *("site-packages", "dist-packages"),
    }
)
"""Of Python's own library: what no program loads, and what others have installed beside it."""
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
}
_LOADED = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
"""A line of ldd, of glibc or musl."""


@dataclass(frozen=True, slots=True)
class PythonRoot:
    """`libraries`: shared ones, by where this machine has them. `packages`: a folder, as pip's --target makes it."""

    program: Path
    library: Path
    libraries: tuple[Path, ...]
    packages: Path

    @property
    def env(self) -> dict[str, str]:
        """What the image has to say, so that every `python3` is this one and sees the packages."""
        home = self.library.parent.parent
        return {"PATH": "/usr/local/bin", "PYTHONHOME": str(home), "PYTHONPATH": f"/{PACKAGES}"}

    def write(self, into: IO[bytes]) -> None:
        """As a tar, from front to back: a pipe will do. Raises OSError."""
        with tarfile.open(fileobj=into, mode="w|", format=tarfile.GNU_FORMAT, dereference=True) as tar:
            tree = _Tree(tar)
            tree.folder("tmp", 0o1777)
            for path, text in _FILES.items():
                tree.text(path, text)
            tree.file(self.program)
            tree.link(PROGRAM, str(self.program))
            for place in self.libraries:
                tree.file(place)
            for path, target in _beside_libc(self.libraries).items():
                tree.link(path, target)
            tree.all(self.library, str(self.library), _LEFT_OUT)
            tree.all(self.packages, PACKAGES, frozenset())


async def read(packages: Path) -> PythonRoot:
    """What there is to take. Raises OSError: Python is not where it should be; HostError: ldd is missing or hangs."""
    program, library, native = await asyncio.to_thread(_find, packages)
    told = await run(("ldd", *map(str, native)), LDD_S)
    return await asyncio.to_thread(_outside, PythonRoot(program, library, (), packages), told.stdout)


def _find(packages: Path) -> tuple[Path, Path, list[Path]]:
    """Python, its library, and all that loads shared libraries."""
    program = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    program, library = program.resolve(strict=True), Path(os.__file__).parent.resolve()
    return program, library, [program, *library.glob("lib-dynload/*.so"), *packages.rglob("*.so")]


def _outside(root: PythonRoot, told: str) -> PythonRoot:
    """With the libraries that ldd told, but for those that packages bring along."""
    own = root.packages.resolve()
    found = sorted({Path(path) for path in _LOADED.findall(told)})
    return replace(root, libraries=tuple(path for path in found if not path.resolve().is_relative_to(own)))


def _beside_libc(libraries: Iterable[Path]) -> dict[str, str]:
    """Links to those that the loader finds here by a list that the image lacks: it always looks where libc is."""
    known = {path: path.parent for path in libraries}
    folder = next((parent for path, parent in known.items() if path.name.startswith("libc.so")), None)
    if folder is None:
        return {}
    return {f"{folder}/{path.name}": str(path) for path, parent in known.items() if parent != folder}


class _Tree:
    """A tar of root's files that has every folder once, above what is in it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._known = {""}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Without it the engine would make one that is closed to others."""
        name = path.strip("/")
        if name in self._known:
            return
        self.folder(_above(name))
        self._known.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def text(self, path: str, text: str) -> None:
        self.folder(_above(path))
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(text), 0o644
        self._tar.addfile(entry, io.BytesIO(text.encode()))

    def link(self, path: str, target: str) -> None:
        name = path.strip("/")
        if name in self._known:
            return
        self.folder(_above(name))
        self._known.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def file(self, path: Path) -> None:
        """Where this machine has it."""
        name = str(path).strip("/")
        if name not in self._known:
            self.folder(_above(name))
            self._known.add(name)
            self._tar.add(path, name, filter=_of_root)

    def all(self, folder: Path, place: str, left_out: frozenset[str]) -> None:
        """A folder with what is in it, at `place`, but for parts of these names."""
        name = place.strip("/")
        self.folder(_above(name))

        def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            parts = entry.name.removeprefix(name).split("/")
            is_unwanted = not left_out.isdisjoint(parts) or any(part.startswith("config-") for part in parts)
            return None if is_unwanted or ".opt-" in entry.name else _of_root(entry)

        self._tar.add(folder, name, filter=chosen)


def _above(path: str) -> str:
    """The folder that it is in."""
    return path.rpartition("/")[0]


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
