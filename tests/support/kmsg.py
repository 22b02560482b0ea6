"""A pipe in the place of /dev/kmsg: a test writes what the kernel would say."""

import fcntl
import os
from pathlib import Path

FALLEN = "NVRM: Xid (PCI:0000:65:00): 79, pid=1234, name=python, GPU has fallen off the bus."
BUFFER_BYTES = 256 * 1024


class FakeKernelLog:
    """`root` is the file system that holds it. Numbers go on by themselves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        path = root / "dev/kmsg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.mkfifo(path)
        # Its own reader too, so that it never ends.
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        # As much as a kernel's own buffer holds.
        fcntl.fcntl(self._file, fcntl.F_SETPIPE_SZ, BUFFER_BYTES)
        self.number = 0

    def say(self, text: str, at_s: float = 1.0, priority: int = 3) -> None:
        """A record of the kernel's own facility; priorities from 8 on are those of programs."""
        self.number += 1
        self.raw(f"{priority},{self.number},{round(at_s * 1_000_000)},-;{text}\n".encode())

    def raw(self, piece: bytes) -> None:
        os.write(self._file, piece)

    def close(self) -> None:
        os.close(self._file)
