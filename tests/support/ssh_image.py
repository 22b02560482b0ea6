"""An image with this machine's own sshd in it, as images for rent bring one, and the script that starts it."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.support.engine_api import EngineApi
from tests.support.images import rootfs

SSH_IMAGE = "kaalia/ssh:latest"
PROGRAMS = ("/usr/sbin/sshd", "/usr/bin/ssh-keygen")
_CONFIG = b"""HostKey /etc/ssh/host_key
PasswordAuthentication no
PermitRootLogin yes
UsePAM no
StrictModes no
PidFile none
"""
_PASSWD = b"root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534:sshd:/run/sshd:/bin/false\n"
ONSTART = """#!/bin/sh
mkdir -p /run/sshd /root/.ssh
[ -e /etc/ssh/host_key ] || /usr/bin/ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/host_key
printf '%s\\n' "$SSH_PUBLIC_KEY" > /root/.ssh/authorized_keys
echo "I am $VAST_CONTAINERLABEL" > /tmp/index.html
httpd -p 8080 -h /tmp
exec /usr/sbin/sshd -D -e -f /etc/ssh/config
"""


def import_ssh(engine: EngineApi) -> str:
    """Make the image and return its name."""
    files = {"etc/ssh/config": _CONFIG, "etc/passwd": _PASSWD}
    engine.import_image(SSH_IMAGE, _with_programs(rootfs(files)), ["ENV PATH=/bin:/usr/bin:/usr/sbin"])
    return SSH_IMAGE


def _with_programs(tar: bytes) -> bytes:
    buffer = io.BytesIO(tar)
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for path in _needed():
            entry = tarfile.TarInfo(path.lstrip("/"))
            content = Path(path).read_bytes()
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _needed() -> list[str]:
    """The programs and their libraries."""
    found = set(PROGRAMS)
    for program in PROGRAMS:
        told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        found |= {word for word in told.split() if word.startswith("/")}
    return sorted(found)
