"""`python -m kaalia.runtime.view.program`: a process among one instance's files, asked by one line of JSON on stdin.

    {"hold": SOURCE}                             shows the files as /proc/PID/root/view until stdin ends
    {"holder": PID, "command": "ls -l", ...}     does one command there, and ends

It runs no program of the image and reads no library of it: from the moment on that it sees the instance's files it
imports nothing. It answers with one line: `{"pid": 51}`, `{"text": "..."}` or `{"problem": "..."}`.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kaalia.contracts.command import Program, parse
from kaalia.errors import KaaliaError
from kaalia.host import confine, mounts
from kaalia.runtime.view.build import VIEW, NotThereError, Source, build
from kaalia.runtime.view.listing import Listing
from kaalia.runtime.view.output import EnoughError, Output
from kaalia.runtime.view.removal import Removal
from kaalia.runtime.view.usage import Usage

_DOES: dict[Program, type[Listing | Removal | Usage]] = {Program.LS: Listing, Program.RM: Removal, Program.DU: Usage}
_LEAVE_S = 2.0
"""How long those who use a view are waited for, after SIGKILL, before it is let go all the same."""
_OVER_S = 1.0
_MEMORY_BYTES = 2**30
RIGHTS = (confine.DAC_OVERRIDE, confine.FOWNER)
"""To read and remove files of any owner."""


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    request = json.loads(sys.stdin.buffer.readline() or "{}")
    _import_nothing_more()
    try:
        if "hold" in request:
            _hold(request["hold"])
        else:
            _say({"text": _command(**request)})
    except (OSError, NotThereError, KaaliaError, MemoryError) as error:
        _say({"problem": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _import_nothing_more() -> None:
    """Whatever lies in an image at the paths of Python's own files, none of it is ever run, or read for a traceback."""
    for places in (sys.meta_path, sys.path_hooks, sys.path):
        places.clear()
    sys.excepthook = lambda kind, error, _: print(f"{kind.__name__}: {error}", file=sys.stderr)


def _hold(source: dict[str, Any]) -> None:
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    process, subvolume = source.get("process"), source.get("subvolume")
    is_own = source.get("layer") is not None
    build(
        Source(
            process=(int(process[0]), str(process[1])) if process else None,
            layer=source.get("layer"),
            subvolume=(str(subvolume[0]), str(subvolume[1])) if subvolume else None,
            folder=source.get("folder"),
            volumes=tuple((str(folder), str(path)) for folder, path in source.get("volumes", ())),
        )
    )
    _say({"pid": os.getpid()})
    sys.stdin.buffer.readline()
    _say({"ended": _end(processes, is_own=is_own)})


def _end(processes: int, *, is_own: bool) -> bool:
    """Kill whoever lives in the view, and unmount it. False: somebody holds on to it, and it goes with him.

    `is_own`: the file system was mounted here, so that whoever lives on it has it from here.
    """
    places = _places(processes)
    device = Path(VIEW).stat().st_dev if is_own else None
    until_s = time.monotonic() + _LEAVE_S
    while places:
        _kill_all(processes, frozenset(places), device)
        try:
            for number in sorted(places, key=lambda one: -len(places[one])):
                mounts.unmount(places[number])
                del places[number]
        except OSError:
            if time.monotonic() > until_s:
                mounts.let_go(VIEW)
                return False
            time.sleep(0.02)
    return True


def _places(processes: int) -> dict[int, str]:
    """What is mounted in the view, by the kernel's number of the mount."""
    found = mounts.points(_text(processes, "self/mountinfo"))
    return {number: path for number, path in found if path == VIEW or path.startswith(f"{VIEW}/")}


def _kill_all(processes: int, places: frozenset[int], device: int | None) -> None:
    for name in filter(str.isdigit, os.listdir(processes)):
        if any(_leads_to(processes, f"{name}/{link}", places, device) for link in ("root", "cwd")):
            try:
                os.kill(int(name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _leads_to(processes: int, link: str, places: frozenset[int], device: int | None) -> bool:
    """A link of /proc leads to one of these mounts, by the kernel's numbers, or to this file system."""
    try:
        handle = os.open(link, os.O_PATH | os.O_CLOEXEC, dir_fd=processes)
    except OSError:
        return False
    try:
        lines = _text(processes, f"self/fdinfo/{handle}").splitlines()
        number = next((int(line.split()[1]) for line in lines if line.startswith("mnt_id:")), None)
        return number in places or os.fstat(handle).st_dev == device
    finally:
        os.close(handle)


def _text(processes: int, path: str) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=processes), errors="surrogateescape") as file:
        return file.read()


def _command(holder: int, command: str, bytes_max: int, seconds: float) -> str:
    parsed, out = parse(command), Output(bytes_max, seconds)
    os.environ["TZ"] = "UTC0"
    time.tzset()  # else the C library would read the zone from a file of the image
    _move_to(holder)
    signal.setitimer(signal.ITIMER_REAL, seconds + _OVER_S)
    with suppress(EnoughError):
        _DOES[parsed.program](parsed, out).run()
    return out.text()


def _move_to(holder: int) -> None:
    """From here on there is nothing but the view, and no right but to read and remove files. Raises OSError."""
    namespace = os.open(f"/proc/{holder}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(namespace)
    os.close(namespace)
    os.chroot(VIEW)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    mounts.keep_rights(*RIGHTS)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
