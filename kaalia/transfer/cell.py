"""A process that sees nothing of the machine but the access kit and the files it is to serve. Runs as a program:

    python -m kaalia.transfer.cell /var/lib/kaalia/transfer/C.7001/cell.json

Reads what to show, makes it the whole world of its child (own mounts, processes, and no network), gives up all rights
but those over files, and becomes the program that was named. Ends with its code. Standard input and output are the
program's: of a door the connection.
"""

import contextlib
import os
import resource
import select
import signal
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from kaalia.host import confine, mounts
from kaalia.host.process import forked
from kaalia.transfer import outlet
from kaalia.transfer.plan import (
    FAILED,
    LINE_IN,
    LINE_OUT,
    SOURCE_MISSING,
    TARGET_UNUSABLE,
    Bind,
    Cell,
    Route,
    decode,
)

STAGE = "/tmp"  # noqa: S108 its own
"""Where the new root is put together, seen by this process only; every system has it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LAST_WORDS_MS = 5000
"""rsync removes what it has half written when it is to end, which on a busy machine takes its time."""
MEMORY_BYTES = 2**30
"""Of each process. A list of a million files takes rsync 122 MiB, and its length is the renter's word."""
_FIRST_OUT_OF_MEMORY = "1000"
RIGHTS = (
    *(confine.CHOWN, confine.DAC_OVERRIDE, confine.FOWNER, confine.FSETID),
    *(confine.SET_GID, confine.SET_UID, confine.CHROOT),
)
"""To keep and restore owners and modes of any file, and what sshd and rsync want to give up more."""


_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def main() -> None:
    cell = decode(Path(sys.argv[1]).read_text())
    try:
        watched = [os.pidfd_open(one) for one in cell.watched]
        mounts.own_mounts()
        confine.alone()
        given = outlet.opened(0) if cell.has_outlet else {}
    except (OSError, ValueError) as error:
        sys.exit(f"cannot make the cell: {error}")
    line = os.dup(0) if cell.has_line else None
    sys.exit(_outlived(forked(lambda: become(cell, given)), watched, line))


def _outlived(child: int, watched: list[int], line: int | None) -> int:
    """Wait for the child, or for the end of what it must not outlive; its exit code."""
    for descriptor in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)  # the connection is the child's alone
    handle, poll = os.pidfd_open(child), select.poll()
    asked, asking = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.close(asking))
    for one in (handle, asked, *watched):
        poll.register(one, select.POLLIN)
    poll.register(2, 0)  # an error once nobody reads it: the client of systemd has gone, or the daemon's end of it
    if line is not None:
        poll.register(line, 0)  # whoever holds the other end has gone
    ready = dict(poll.poll())
    if line in ready:
        poll.unregister(line)
        ready = dict(poll.poll(LAST_WORDS_MS))  # a line ends in order before who speaks on it does
    if handle not in ready:
        _end(child, handle)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _end(child: int, handle: int) -> None:
    """In order, so that rsync removes what it has half written, and then by force."""
    os.kill(child, signal.SIGTERM)
    if not select.select([handle], [], [], LAST_WORDS_MS / 1000)[0]:
        os.kill(child, signal.SIGKILL)


def become(cell: Cell, given: Mapping[str, str]) -> NoReturn:
    try:
        confine.die_with_parent(signal.SIGKILL)
        _stand_back(cell)
        # What is shown may lie below the stage, which is about to hide it.
        shown = [(bind, _taken(bind)) for bind in (*cell.binds, *map(_device, DEVICES))]
        _furnish(cell)
        for bind, tree in shown:
            _show(bind, tree)
        route = () if cell.route is None else _resolved(cell.route)
        argv = (*cell.argv, *route, *cell.words_after)
        if cell.has_line:
            _keep_line(is_its_own=not cell.has_outlet)
        mounts.settle_in(STAGE)
        mounts.limit_path("/", mounts.READ_ONLY | mounts.NO_SUID | mounts.NO_DEVICES)
        confine.bound_rights(*RIGHTS)
        mounts.keep_rights(*RIGHTS)
        os.umask(0o022)
        env = {**cell.env, **given}
        if cell.route is None:
            _run(argv, env)
        os._exit(_supervised(forked(lambda: _run(argv, env))))
    except OSError as error:
        os.write(2, f"cannot make the cell: {error}\n".encode())
    os._exit(FAILED)


def _stand_back(cell: Cell) -> None:
    """Behind all tenants, for memory and processors: whatever is sent, it ends this cell and nobody else."""
    Path("/proc/self/oom_score_adj").write_text(_FIRST_OUT_OF_MEMORY)
    bounded = resource.RLIMIT_DATA if cell.reserves_memory else resource.RLIMIT_AS
    resource.setrlimit(bounded, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)


def _run(argv: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    try:
        os.setsid()
        os.execve(argv[0], argv, dict(env))  # noqa: S606 an argument list, and it stays that way
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
    os._exit(FAILED)


def _supervised(child: int) -> int:
    """As process 1, whose end would be that of all: let every part of rsync come to its own, also when it is to end."""
    signal.signal(signal.SIGTERM, lambda *_: _ask_to_end())
    code = FAILED
    while True:
        try:
            process, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code & 0xFF
        if process == child:
            code = os.waitstatus_to_exitcode(status)
            _ask_to_end()


def _ask_to_end() -> None:
    """Everybody else here."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)


def _taken(bind: Bind) -> int:
    if bind.process is None:
        return mounts.taken(bind.source)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{bind.process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(theirs)
    try:
        return mounts.taken(bind.source, recursive=True)
    finally:
        mounts.enter(own)
        os.close(theirs)
        os.close(own)


def _furnish(cell: Cell) -> None:
    mounts.mount("tmpfs", STAGE, "tmpfs", mounts.NO_SUID | mounts.NO_DEVICES, "size=4m,mode=0755")
    for folder in cell.folders:
        _inside(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for path, text in cell.files.items():
        _inside(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _inside(path).write_text(text)
        _inside(path).chmod(0o644)


def _show(bind: Bind, tree: int) -> None:
    target = _inside(bind.target)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        target.mkdir(mode=0o755, exist_ok=True)
    else:
        target.touch(mode=0o600)
    place = os.open(target, os.O_PATH | os.O_CLOEXEC)
    mounts.put(tree, place)
    if bind.target in DEVICES:
        return
    flags = mounts.NO_SUID | mounts.NO_DEVICES
    flags |= mounts.READ_ONLY if bind.is_read_only else 0
    mounts.limit_path(str(target), flags if bind.runs_programs else flags | mounts.NO_PROGRAMS)


def _resolved(route: Route) -> tuple[str, ...]:
    """The paths without any link, so that each leads where it would lead its holder. Ends the process otherwise."""
    words: list[str] = []
    if route.source is not None:
        try:
            tree = os.open(_inside(route.source_tree), _FOLDER)
            words.append(_source(tree, route.source, is_followed=route.is_followed))
        except OSError as error:
            _refuse(SOURCE_MISSING, route.source, error)
    if route.target is not None:
        as_folder = route.is_followed and not route.target.endswith("/")
        try:
            tree = os.open(_inside(route.target_tree), _FOLDER)
            words.append(_target(tree, f"{route.target}/" if as_folder else route.target))
        except OSError as error:
            _refuse(TARGET_UNUSABLE, route.target, error)
    return tuple(words)


def _source(tree: int, path: str, *, is_followed: bool) -> str:
    """Raises OSError."""
    if is_followed:
        return _named(mounts.inside(tree, path.rstrip("/") or "/", os.O_PATH))
    if path.endswith("/"):
        return f"{_named(mounts.inside(tree, path, _FOLDER))}/"
    folder, _, name = path.rpartition("/")
    parent = mounts.inside(tree, folder or "/", _FOLDER)
    os.lstat(name, dir_fd=parent)
    return f"{_named(parent)}/{name}"


def _target(tree: int, path: str) -> str:
    """A folder that is there, or a name in one, which is made if it has to be. Raises OSError."""
    try:
        return f"{_named(mounts.inside(tree, path, _FOLDER))}/"
    except (FileNotFoundError, NotADirectoryError):
        folder, _, name = path.rstrip("/").rpartition("/")
    names = [one for one in folder.split("/") if one]
    for count in range(1, len(names) + 1):
        there = "/".join(names[:count])
        try:
            os.close(mounts.inside(tree, there, _FOLDER))
        except FileNotFoundError:
            parent = mounts.inside(tree, "/".join(names[: count - 1]) or "/", _FOLDER)
            os.mkdir(names[count - 1], 0o755, dir_fd=parent)
            os.close(parent)
    parent = mounts.inside(tree, folder or "/", _FOLDER)
    return f"{_named(parent)}/{name}{'/' if path.endswith('/') else ''}"


def _named(handle: int) -> str:
    """Where an open folder is, as the cell will call it."""
    return str(Path(f"/proc/self/fd/{handle}").readlink()).removeprefix(STAGE)


def _refuse(code: int, path: str, error: OSError) -> NoReturn:
    os.write(2, f"{path}: {os.strerror(error.errno or 0)}\n".encode(errors="replace"))
    os._exit(code)


def _keep_line(*, is_its_own: bool) -> None:
    if is_its_own:
        os.dup2(0, LINE_IN)
        os.dup2(1, LINE_OUT)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)


def _device(path: str) -> Bind:
    return Bind(path, path, is_read_only=False)


def _inside(path: str) -> Path:
    return Path(STAGE) / path.lstrip("/")


if __name__ == "__main__":
    main()
