"""Images with Python in them, made of the Python that runs these tests: for Jupyter in containers without a network.

| image                    | what it has                                                              |
|--------------------------|--------------------------------------------------------------------------|
| kaalia/python:latest     | Python with its own ensurepip, bash; no package                          |
| kaalia/jupyter:latest    | the same with `.cache/jupyter` (scripts/setup): jupyter_server, no pages |
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from tests.support.engine_api import EngineApi
from tests.support.kinds import debian

PYTHON_IMAGE = "kaalia/python:latest"
JUPYTER_IMAGE = "kaalia/jupyter:latest"
CACHE = Path(__file__).parents[2] / ".cache"
SERVER = CACHE / "jupyter"
"""Packages as pip lays them out, by scripts/setup."""
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "dist-packages"}
_CHANGES = ("ENV PATH=/usr/local/bin:/usr/bin:/bin", 'CMD ["sleep", "9999"]')


def import_python(engine: EngineApi, name: str = PYTHON_IMAGE, **folders: Path) -> str:
    """Make the image and return its name. `folders`: what lies at `/NAME`, or in Python's own path by `packages`."""
    places = {_packages() if at == "packages" else at: folder for at, folder in folders.items()}
    engine.import_image(name, _tar(places), _CHANGES)
    return name


def import_jupyter(engine: EngineApi) -> str:
    return import_python(engine, JUPYTER_IMAGE, packages=SERVER)


def _tar(folders: Mapping[str, Path]) -> bytes:
    """Debian's programs, Python below /usr/local, and `folders` by where they go."""
    library = Path(sys.base_prefix, "lib", _VERSION)
    native = [
        *library.glob("lib-dynload/*.so"),
        *(file for folder in folders.values() for file in folder.rglob("*.so")),
    ]
    buffer = io.BytesIO(debian()[0])
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        program = Path(sys.base_prefix, "bin", _VERSION).resolve()
        tar.add(program, f"usr/local/bin/{_VERSION}")
        link = tarfile.TarInfo("usr/local/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, _VERSION
        tar.addfile(link)
        known = set(tar.getnames())
        for place, file in _libraries([program, *native]).items():
            if place not in known:
                tar.add(file.resolve(), place)
        tar.add(library, f"usr/local/lib/{_VERSION}", filter=_plain)
        for place, folder in folders.items():
            tar.add(folder, place)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = set(Path(entry.name).parts)
    is_left_out = parts & _LEFT_OUT or ".opt-" in entry.name or any(part.startswith("config-") for part in parts)
    return None if is_left_out else entry


def _libraries(programs: Iterable[Path]) -> dict[str, Path]:
    """What they load of this machine, by where it goes; what lies in a home here goes beside libc."""
    told = subprocess.run(["ldd", *programs], check=False, capture_output=True, text=True).stdout
    words = {word for line in told.splitlines() if "=>" in line or "ld-linux" in line for word in line.split()}
    found = [Path(word) for word in words if word.startswith("/") and not word.endswith(":")]
    beside = next(file.parent for file in found if file.name == "libc.so.6")
    places = {file: file if file.parts[1] in ("lib", "lib64", "usr") else beside / file.name for file in found}
    return {str(place).lstrip("/"): file for file, place in places.items()}


@cache
def _packages() -> str:
    """Where this Python looks for packages, in the image."""
    script = "import site; print(site.getsitepackages()[0])"
    base = Path(sys.base_prefix, "bin", _VERSION)
    told = subprocess.run([base, "-c", script], check=True, capture_output=True, text=True).stdout
    return f"usr/local/lib/{_VERSION}/{Path(told.strip()).name}"
