"""Images of four kinds for the access kit, made on this machine: what each has of loader, libraries and shell.

| kind       | loader and library | shell            | root's shell by /etc/passwd |
|------------|--------------------|------------------|-----------------------------|
| debian     | glibc              | bash, dash       | /bin/bash                   |
| musl       | musl               | busybox          | /bin/sh                     |
| busybox    | none, all static   | busybox          | /bin/sh                     |
| distroless | none, all static   | none             | /sbin/nologin               |
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.support.engine_api import EngineApi
from tests.support.images import rootfs, server

KINDS = ("debian", "musl", "busybox", "distroless")
_PROGRAMS = (
    *("bash", "sh", "cat", "chmod", "cp", "echo", "env", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "printenv"),
    *("ps", "readlink", "rm", "sed", "sha256sum", "sleep", "sort", "stat", "tail", "tee", "touch", "true", "tty", "wc"),
    *("whoami", "sync", "dd", "ldd", "tr", "cut", "false"),
)
_PASSWD = "root:*:0:0:root:/root:/bin/bash\nworker:*:1000:1000::/home/worker:/bin/bash\n"
_BARE_PASSWD = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
_GROUP = "root:x:0:\nworker:x:1000:\n"
_MUSL_PROGRAM = '#include <stdio.h>\nint main(void) { puts("musl speaks"); return 0; }\n'


def name_of(kind: str) -> str:
    return f"kaalia/{kind}:latest"


def import_kinds(engine: EngineApi, kinds: Iterable[str] = KINDS) -> None:
    """Make the images."""
    for kind in kinds:
        tar, changes = _MAKERS[kind]()
        engine.import_image(name_of(kind), tar, changes)


def debian() -> tuple[bytes, list[str]]:
    """Programs of this machine's own Debian, with all that they load and its /etc/profile."""
    found = [f"/usr/bin/{name}" for name in _PROGRAMS]
    found = sorted({*found, *(library for program in found for library in _libraries(program))})
    files = {path: (Path(path).read_bytes(), 0o755) for path in found}
    files |= {
        "/etc/passwd": (_PASSWD.encode(), 0o644),
        "/etc/group": (_GROUP.encode(), 0o644),
        "/etc/profile": (Path("/usr/share/base-files/profile").read_bytes(), 0o644),
    }
    return _tar(files), ["ENV PATH=/usr/local/bin:/usr/bin:/bin", 'CMD ["sleep", "9999"]']


def _busybox() -> tuple[bytes, list[str]]:
    return rootfs(), ["ENV PATH=/bin:/usr/bin", 'CMD ["sleep", "9999"]']


def _musl() -> tuple[bytes, list[str]]:
    """As Alpine's: busybox, and programs that need musl's loader."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "speak.c"), Path(folder, "speak")
        source.write_text(_MUSL_PROGRAM)
        subprocess.run(["musl-gcc", "-Os", "-o", program, source], check=True)
        loader = next(Path("/lib").glob("ld-musl-*.so.1"))
        files = {"/bin/speak": (program.read_bytes(), 0o755), str(loader): (loader.read_bytes(), 0o755)}
    return _tar(files, rootfs()), ["ENV PATH=/bin:/usr/bin", 'CMD ["sleep", "9999"]']


def _distroless() -> tuple[bytes, list[str]]:
    """One static program, and accounts that no shell stands behind; it is not even to run as root."""
    files = {
        "/app/serve": (server(), 0o755),
        "/etc/passwd": (_BARE_PASSWD.encode(), 0o644),
        "/etc/group": (b"root:x:0:\nnonroot:x:65532:\n", 0o644),
    }
    return _tar(files), ["USER 65532", "WORKDIR /app", 'ENTRYPOINT ["/app/serve"]', 'CMD ["8080"]']


_MAKERS = {"debian": debian, "musl": _musl, "busybox": _busybox, "distroless": _distroless}


@cache
def _libraries(program: str) -> tuple[str, ...]:
    told = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
    return tuple(word for word in told.split() if word.startswith("/"))


def _tar(files: dict[str, tuple[bytes, int]], base: bytes = b"") -> bytes:
    """`files` by path with their folders, behind those of `base`."""
    buffer = io.BytesIO(base)
    with tarfile.open(fileobj=buffer, mode="a" if base else "w") as tar:
        if not base:
            parents = {str(parent).lstrip("/") for path in files for parent in Path(path).parents}
            for folder in sorted({"tmp", "dev", "proc", "sys", "etc", "var", *parents} - {""}):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                tar.addfile(entry)
            entry = tarfile.TarInfo("bin")
            entry.type, entry.linkname = tarfile.SYMTYPE, "usr/bin"
            tar.addfile(entry)
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
