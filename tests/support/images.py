"""Images made on this machine, for want of a registry: a root filesystem of static busybox and a small server.

`kaalia/demo:latest` serves pages on 8080; `serve 8080 9000/udp` in it answers on any ports; `:expose` has EXPOSE lines.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.support.engine_api import EngineApi

BUSYBOX = Path("/usr/bin/busybox")
"""Debian's busybox-static."""
DEMO_IMAGE = "kaalia/demo:latest"
EXPOSE_IMAGE = "kaalia/demo:expose"

_PAGE = b"<!doctype html><title>kaalia demo</title><h1>It runs.</h1>\n"
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var", "var/log", "www")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "www/index.html": _PAGE,
}
_CHANGES = ("ENV PATH=/bin:/usr/bin", 'CMD ["httpd", "-f", "-v", "-p", "8080", "-h", "/www"]')


def rootfs(files: Mapping[str, bytes] | None = None) -> bytes:
    """A tar of about 3 MB: busybox with all its applets, /bin/serve, a page in /www, and `files` by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        _add(tar, "bin/serve", server(), 0o755)
        for applet in _applets():
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        for path, content in {**_FILES, **(files or {})}.items():
            _add(tar, path.lstrip("/"), content, 0o755 if path.endswith(".sh") else 0o644)
    return buffer.getvalue()


def import_demo(engine: EngineApi) -> str:
    """Make both demo images and return the name of the plain one."""
    tar = rootfs()
    engine.import_image(DEMO_IMAGE, tar, _CHANGES)
    engine.import_image(EXPOSE_IMAGE, tar, [*_CHANGES, "EXPOSE 8080", "EXPOSE 9000/udp"])
    return DEMO_IMAGE


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


@cache
def _applets() -> list[str]:
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return [applet for applet in listed if applet != "busybox"]


@cache
def server() -> bytes:
    """A static program that answers on the ports it is given."""
    source = Path(__file__).with_name("serve.c")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "serve")
        subprocess.run(["gcc", "-Os", "-static", "-s", "-o", program, source], check=True)
        return program.read_bytes()
