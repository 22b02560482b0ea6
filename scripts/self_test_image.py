"""Builds the root filesystem of the self-test image from a local one: Python with its library, OpenSSL, busybox and the
libraries they need, and the test itself at /verification. Nothing is downloaded.

    python scripts/self_test_image.py --into self-test.tar [--root /] [--quick]
    docker import self-test.tar kaalia/self-test:latest
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
IMAGE = HERE / "images" / "self-test"
REQUIREMENTS = HERE / "kaalia" / "contracts" / "requirements.toml"
WORK = Path("kaalia/selftest/work")
"""The machine's own work programs: the image has the same, in the same folders."""
OLDEST_PYTHON = (3, 11)
OPENSSL = "usr/bin/openssl"
BUSYBOX = ("usr/bin/busybox", "bin/busybox")
WITHOUT = frozenset(
    {
        *("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data"),
        *("dist-packages", "site-packages", "sitecustomize.py", "usercustomize.py"),
    }
)
"""The last are the owner's own, in /etc: an image goes to others."""
WITHOUT_MODULES = re.compile(
    r"_(sqlite3|curses\w*|tkinter|dbm|gdbm|test\w*|xx\w*|crypt)\.|(readline|nis|xx\w*|ossaudio\w*)\."
)
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""In /usr, as Debian and Ubuntu have it."""
FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/log")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:*:100:65534:sshd:/run/sshd:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/debian_version": "12.0\n",  # by it NVIDIA's hook knows where its libraries go
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/ld.so.conf.d/local.conf": "/usr/local/lib\n",
}
LINKS_MAX = 40
"""As Linux has it."""
LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


class BuildError(Exception):
    """Why there is no image, and what to do."""


def contents(root: Path, *, is_quick: bool = False) -> dict[str, bytes]:
    """Files of the image by path. Raises BuildError."""
    python = _python(root)
    library = f"usr/lib/{python.name}"
    files = {f"{library}/{path}": data for path, data in _tree(root / library, WITHOUT)}
    files = {path: data for path, data in files.items() if not WITHOUT_MODULES.match(Path(path).name)}
    programs = [f"usr/bin/{python.name}", OPENSSL]
    for path in programs:
        files[path] = _read(root, path)
    files["usr/bin/busybox"] = _read(root, _busybox(root))
    with_libraries = [*programs, "usr/bin/busybox", *(path for path in files if path.endswith(".so"))]
    for path in _libraries(root, with_libraries):
        files.setdefault(_merged(path), _read(root, path))
    files |= {f"verification/{path}": data for path, data in _tree(IMAGE / "verification", WITHOUT)}
    files |= {f"verification/{WORK}/{path}": data for path, data in _tree(HERE / WORK, WITHOUT)}
    missing = sorted(step for step in settings(is_quick)["deadline_s"] if f"verification/{WORK}/{step}.py" not in files)
    if missing:
        raise BuildError(f"cannot find the programs of steps in {WORK}: {', '.join(missing)}: get the whole source")
    files["verification/settings.json"] = json.dumps(settings(is_quick), indent=1).encode()
    return {**files, **{path: text.encode() for path, text in FILES.items()}}


def settings(is_quick: bool) -> dict[str, Any]:
    """settings.json of the image. `is_quick`: each step as short as it still proves something."""
    told = tomllib.loads((IMAGE / "settings.toml").read_text())
    required = {one["id"]: one for one in tomllib.loads(REQUIREMENTS.read_text())["requirement"]}
    ram, cores = required["system.ram"], required["cpu.physical_cores"]
    told["limits"] |= {"ram_share": ram["number"], "ram_cap_mib": ram["greatest"], "cores_per_gpu": cores["number"]}
    if is_quick:
        told["arguments"] = {step: {"quick": True} for step in told["deadline_s"]}
    return told


def write(files: dict[str, bytes], applets: Iterable[str], into: io.BufferedIOBase) -> None:
    """The same files make the same tar, byte by byte."""
    with tarfile.open(fileobj=into, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {str(parent) for path in files for parent in Path(path).parents} | set(FOLDERS) | {"usr"}
        for folder in sorted(folders - {".", *MERGED}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        links = {name: f"usr/{name}" for name in MERGED if name in ("bin", "sbin") or f"usr/{name}" in folders}
        links |= {f"usr/bin/{name}": "busybox" for name in applets if f"usr/bin/{name}" not in files}
        links["usr/bin/python3"] = next(Path(path).name for path in files if path.startswith("usr/bin/python3."))
        for path, target in sorted(links.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            is_program = "/bin/" in path or path.endswith(".sh") or ".so" in Path(path).name
            entry.size, entry.mode = len(data), 0o755 if is_program else 0o644
            tar.addfile(entry, io.BytesIO(data))


def _python(root: Path) -> Path:
    """The newest of the root."""
    found = [
        (tuple(map(int, path.name[6:].split("."))), path)
        for path in root.glob("usr/bin/python3.[0-9]*")
        if path.name[6:].replace(".", "").isdigit()
    ]
    newest, path = max(found, default=((0,), root))
    if newest < OLDEST_PYTHON:
        raise BuildError(
            f"cannot find a Python of 3.11 or newer in {root}/usr/bin: install python3 there, or give another --root"
        )
    return path


def _tree(folder: Path, without: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """Its files; no links to other folders, which may lead anywhere on this machine."""
    for path in sorted(folder.iterdir()):
        if path.name in without or path.name.startswith("config-"):
            continue
        if path.is_symlink() and path.resolve().parent != folder.resolve():
            continue
        if path.is_dir():
            yield from ((f"{path.name}/{name}", data) for name, data in _tree(path, without))
        elif path.is_file():
            yield path.name, path.read_bytes()


def _libraries(root: Path, programs: Iterable[str]) -> list[str]:
    """Paths, relative to the root, of all shared libraries, by the root's own loader."""
    told = _run(root, "ldd", *(f"/{path}" for path in programs))
    if not told.stdout:
        why = told.stderr.strip()[-200:]
        raise BuildError(f"cannot list libraries of {root}: {why}: run this as root, with libc-bin in that root")
    missing = re.findall(r"(\S+) => not found", told.stdout)
    if missing:
        raise BuildError(f"cannot find libraries in {root}: {', '.join(sorted(set(missing)))}: install them there")
    return sorted({found.lstrip("/") for found in LIBRARY.findall(told.stdout)})


def _merged(path: str) -> str:
    return f"usr/{path}" if path.split("/", maxsplit=1)[0] in MERGED else path


def within(root: Path, path: str) -> Path:
    """Where a file of the root is, links followed as a program in there would: `/lib` is the root's own."""
    place, left, links = root, [part for part in reversed(path.split("/")) if part], 0
    while left:
        part = left.pop()
        place = (place.parent if place != root else root) if part == ".." else place / part
        if place.is_symlink() and links < LINKS_MAX:
            target, links = str(place.readlink()), links + 1
            place = root if target.startswith("/") else place.parent
            left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return place


def _read(root: Path, path: str) -> bytes:
    try:
        return within(root, path).read_bytes()
    except OSError as error:
        raise BuildError(
            f"cannot read {root / path}: {error.strerror}: install its package there, or give another --root"
        ) from error


def _busybox(root: Path) -> str:
    return next((path for path in BUSYBOX if within(root, path).exists()), BUSYBOX[0])


def _applets(root: Path) -> list[str]:
    told = _run(root, f"/{_busybox(root)}", "--list")
    if told.returncode != 0:
        raise BuildError(f"cannot run busybox of {root}: {told.stderr.strip()[-200:]}: install busybox-static there")
    return [name for name in told.stdout.split() if name != "busybox"]


def _run(root: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    """A program of the root, in it."""
    inside = ["chroot", str(root)] if root != Path("/") else []
    return subprocess.run([*inside, *argv], capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/build-self-test-image", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="the tar file to write")
    parser.add_argument("--root", type=Path, default=Path("/"), help="the root filesystem to take programs from")
    parser.add_argument("--quick", action="store_true", help="steps as short as they still prove something")
    options = parser.parse_args()
    try:
        files = contents(options.root.resolve(), is_quick=options.quick)
        part = options.into.with_name(f"{options.into.name}.part")
        with part.open("wb") as file:
            write(files, _applets(options.root.resolve()), file)
        part.replace(options.into)
    except (BuildError, OSError) as error:
        print(f"build-self-test-image: {error}", file=sys.stderr)
        return 1
    print(f"{options.into}: {options.into.stat().st_size >> 20} MiB, {len(files)} files", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
