"""Hardware that goes bad under a work program of the self-test: bits of its memory flip, bytes of its file change.

with striking(flip_bits, pid): ...      again and again, until the program has ended or the block is left
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

MIB = 1 << 20
EVERY_S = 0.01

Strike = Callable[[int], None]
"""Once, at the process of this number. Raises OSError when there is nothing to strike (yet, or any more)."""


@contextmanager
def striking(strike: Strike, pid: Callable[[], int | None]) -> Iterator[None]:
    """`pid`: whom, None: nobody is there yet."""
    stop = Event()
    thread = Thread(target=_repeat, args=(strike, pid, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _repeat(strike: Strike, pid: Callable[[], int | None], stop: Event) -> None:
    while not stop.wait(EVERY_S):
        whom = pid()
        if whom is None:
            continue
        try:
            strike(whom)
        except OSError:
            continue  # it is not so far, or has ended


def process_of(program: str) -> int | None:
    """The work program of this name that runs, such as `ram`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(f"/work/{program}.py".encode()) for word in words):
            return int(folder.name)
    return None


def flip_bits(pid: int) -> None:
    """In the middle of each great piece of its memory."""
    for start, end in _great_pieces(pid):
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek((start + end) // 2)
            byte = memory.read(1)[0]
            memory.seek((start + end) // 2)
            memory.write(bytes([byte ^ 0x10]))


def spoil_file(folder: Path, at: int = 5 * MIB + 4096) -> Strike:
    """Some bytes of the file that it has open there."""

    def strike(pid: int) -> None:
        path = open_file(pid, folder)
        if path is None:
            raise FileNotFoundError(folder)
        handle = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(handle, b"spoilt", at)
        finally:
            os.close(handle)

    return strike


def open_file(pid: int, folder: Path) -> str | None:
    """A file that it has open there, with or without a name, as the kernel shows it to others."""
    try:
        handles = list(Path(f"/proc/{pid}/fd").iterdir())
        return next((str(one) for one in handles if str(one.readlink()).startswith(f"{folder}/")), None)
    except OSError:
        return None


def own_mib(pid: int) -> int:
    """Memory of its own that is there."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("RssAnon:")), 0)


def _great_pieces(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, rights, _, _, inode = line.split()[:5]
        start, _, end = place.partition("-")
        if rights == "rw-p" and inode == "0" and int(end, 16) - int(start, 16) >= 64 * MIB:
            yield int(start, 16), int(end, 16)
