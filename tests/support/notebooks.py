"""Images with Python in them, made of the Python that runs these tests, and bash: for Jupyter without a network.

| image                    | what it has                                                              |
|--------------------------|--------------------------------------------------------------------------|
| kaalia/jupyter:latest    | `.cache/jupyter` (scripts/setup): jupyter_server, no pages, no ensurepip |
| kaalia/jupyterlab:latest | `.cache/jupyter-lab` (scripts/setup-jupyter): JupyterLab                 |
| kaalia/python:latest     | no package; wheels of JupyterLab and notebook in /wheels                 |
| kaalia/python:bare       | no package, and no ensurepip                                             |
| kaalia/conda:latest      | as conda's: Python in /opt/conda, an environment with jupyter_server     |
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterable, Mapping
from functools import cache, partial
from pathlib import Path

from tests.support.engine_api import EngineApi
from tests.support.kinds import debian

JUPYTER_IMAGE, LAB_IMAGE = "kaalia/jupyter:latest", "kaalia/jupyterlab:latest"
PYTHON_IMAGE, BARE_IMAGE = "kaalia/python:latest", "kaalia/python:bare"
CONDA_IMAGE, CONDA, CONDA_ENV = "kaalia/conda:latest", "opt/conda", "opt/conda/envs/main"
CACHE = Path(__file__).parents[2] / ".cache"
SERVER, LAB, WHEELS = CACHE / "jupyter", CACHE / "jupyter-lab", CACHE / "jupyter-wheels"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "dist-packages"}
_CHANGES = ("ENV PATH=/usr/local/bin:/usr/bin:/bin", 'CMD ["sleep", "9999"]')


def import_jupyter(engine: EngineApi) -> None:
    engine.import_image(JUPYTER_IMAGE, _tar({_packages(): SERVER}, left_out={"ensurepip"}), _CHANGES)


def import_lab(engine: EngineApi) -> None:
    data = {f"usr/local/{name}": LAB / name for name in ("share", "etc")}
    engine.import_image(LAB_IMAGE, _tar({_packages(): LAB, **data}), _CHANGES)


def import_python(engine: EngineApi) -> None:
    """Both images without packages."""
    loads = list(LAB.rglob("*.so*"))  # what the wheels will want of the image
    engine.import_image(PYTHON_IMAGE, _tar({"wheels": WHEELS}, loads), _CHANGES)
    engine.import_image(BARE_IMAGE, _tar({}, left_out={"ensurepip"}), _CHANGES)


def import_plain(engine: EngineApi, name: str, files: Mapping[str, bytes]) -> None:
    """Python without packages, and `files` by path."""
    engine.import_image(name, _with(_tar({}), files), _CHANGES)


def import_conda(engine: EngineApi) -> None:
    """Its base has no package. PATH names neither base nor environment, as where only ~/.bashrc activates one."""
    packages = f"{CONDA_ENV}/lib/{_VERSION}/site-packages"
    tar = _tar({packages: SERVER}, left_out={"ensurepip"}, prefix=CONDA)
    home = f"home = /{CONDA}/bin\ninclude-system-site-packages = false\n".encode()
    links = {f"{CONDA_ENV}/bin/python3": f"/{CONDA}/bin/python3"}
    engine.import_image(CONDA_IMAGE, _with(tar, {f"{CONDA_ENV}/pyvenv.cfg": home}, links), _CHANGES)


def _with(tar: bytes, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    buffer = io.BytesIO(tar)
    with tarfile.open(fileobj=buffer, mode="a") as whole:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            whole.addfile(entry, io.BytesIO(content))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            whole.addfile(entry)
    return buffer.getvalue()


def _tar(
    folders: Mapping[str, Path], loads: Iterable[Path] = (), left_out: Collection[str] = (), prefix: str = "usr/local"
) -> bytes:
    """Debian's programs, Python below `prefix`, and `folders` by where they go. `left_out`: parts of Python.

    `loads`: programs whose libraries are to be there too.
    """
    library = Path(sys.base_prefix, "lib", _VERSION)
    native = [
        *library.glob("lib-dynload/*.so"),
        *(file for folder in folders.values() for file in folder.rglob("*.so")),
    ]
    buffer = io.BytesIO(debian()[0])
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for parent in (prefix, f"{prefix}/bin", f"{prefix}/lib"):  # the engine's own would be closed to others
            entry = tarfile.TarInfo(parent)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        program = Path(sys.base_prefix, "bin", _VERSION).resolve()
        tar.add(program, f"{prefix}/bin/{_VERSION}")
        link = tarfile.TarInfo(f"{prefix}/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, _VERSION
        tar.addfile(link)
        known = set(tar.getnames())
        for place, file in _libraries([program, *native, *loads]).items():
            if place not in known:
                tar.add(file.resolve(), place)
        tar.add(library, f"{prefix}/lib/{_VERSION}", filter=partial(_plain, _LEFT_OUT | set(left_out)))
        for place, folder in folders.items():
            tar.add(folder, place)
    return buffer.getvalue()


def _plain(unwanted: Collection[str], entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    is_unwanted = not set(unwanted).isdisjoint(parts) or any(part.startswith("config-") for part in parts)
    return None if is_unwanted or ".opt-" in entry.name else entry


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
