"""Builds the view of one instance's files, in mounts of this process's own: `/view` of a root that has nothing else.

The view is the whole root file system of the container with its volumes, and nothing that the engine mounts beside:
no /proc, /sys or /dev. Its devices, programs and set-uid bits have no effect. It ends with the last process in it.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kaalia.host import mounts

VIEW = "/view"
_BASE = "/tmp"  # noqa: S108 it is covered by an empty file system of this process's own
_BASE_OPTIONS = "mode=0755,size=64k,nr_inodes=16"
_PARENT = os.O_PATH | os.O_DIRECTORY
_GUARDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Source:
    """Where the root comes from: exactly one is set.

    `process`: one that runs in the container with this id. `layer`: the container's folder of Docker's overlay2 driver.
    `subvolume`: the engine's data root and the container's id, where its driver is btrfs. `folder`: the root itself.
    """

    process: tuple[int, str] | None = None
    layer: str | None = None
    subvolume: tuple[str, str] | None = None
    folder: str | None = None
    volumes: tuple[tuple[str, str], ...] = ()
    """(folder of the machine, path in the container)"""


class NotThereError(Exception):
    """What should be shown is not there, in words."""


def build(source: Source) -> None:
    """Afterwards this process sees nothing but the view. Raises OSError, NotThereError."""
    mounts.own_mounts()
    volumes = [(_taken_volume(folder), path) for folder, path in source.volumes]
    places: tuple[str, ...] = ()
    tree: int | None = None
    if source.process is not None:
        tree, places = _of_process(*source.process)
    elif source.subvolume is not None:
        tree = mounts.taken(_subvolume(*source.subvolume))
    elif source.folder is not None:
        tree = mounts.taken(source.folder)
    elif source.layer is not None:
        os.chdir(Path(source.layer).parent)
        options = _overlay(Path(source.layer))
    mounts.mount("none", _BASE, "tmpfs", mounts.HARMLESS, _BASE_OPTIONS)
    Path(_BASE + VIEW).mkdir()
    if tree is None:
        mounts.mount("overlay", _BASE + VIEW, "overlay", mounts.HARMLESS, options)
    else:
        _put(tree, _open(_BASE + VIEW))
    root = _open(_BASE + VIEW)
    _guard(root, places)
    for volume, path in volumes:
        _put(volume, _folder(root, path))
    os.close(root)  # an open file keeps a mount from being ended
    mounts.settle_in(_BASE)
    mounts.limit_path("/", mounts.READ_ONLY | mounts.HARMLESS)


@contextmanager
def _visit(namespace: int) -> Iterator[None]:
    """Be in another mount namespace, and come back."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(namespace)
    try:
        yield
    finally:
        mounts.enter(own)
        os.close(own)
        os.close(namespace)


def _put(tree: int, place: int) -> None:
    mounts.put(tree, place)
    mounts.limit(tree, mounts.HARMLESS)
    os.close(tree)
    os.close(place)


def _open(path: str) -> int:
    return os.open(path, _PARENT | os.O_CLOEXEC)


def _taken_volume(folder: str) -> int:
    try:
        return mounts.taken(folder)
    except FileNotFoundError as error:
        raise NotThereError(f"the volume in {folder} is not mounted") from error


def _of_process(pid: int, container_id: str) -> tuple[int, tuple[str, ...]]:
    """The root of the container's own namespace, and what else is mounted there."""
    try:
        # One descriptor for all: the number may belong to another process a moment later.
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if container_id not in _read(process, "cgroup"):
            raise NotThereError(f"process {pid} is not of container {container_id[:12]}")
        places = tuple(path for _, path in mounts.points(_read(process, "mountinfo"))[:_GUARDS_MAX] if path != "/")
        theirs = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotThereError(f"process {pid} has ended") from error
    with _visit(theirs):
        return mounts.taken("/"), places


def _read(folder: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), errors="surrogateescape") as file:
        return file.read()


def _guard(root: int, places: Iterable[str]) -> None:
    """Mount what the layer has there upon itself: to remove it would tear the mount out of the running container."""
    for path in places:
        try:
            place = mounts.inside(root, path, os.O_PATH, follow=False)
        except OSError:
            continue  # below another mount, so the layer has nothing there
        tree = mounts.taken_at(place)
        mounts.put(tree, place)
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            mounts.limit(tree, mounts.READ_ONLY | mounts.HARMLESS)
        os.close(tree)
        os.close(place)


def _subvolume(data_root: str, container_id: str) -> str:
    name = (Path(data_root) / "image/btrfs/layerdb/mounts" / container_id / "mount-id").read_text().strip()
    if not name.isalnum():
        raise NotThereError(f"{name!r} is no name of a subvolume")
    return str(Path(data_root) / "btrfs/subvolumes" / name)


def _overlay(layer: Path) -> str:
    """The options by which Docker's driver mounts it, relative to the driver's own folder: 127 layers fit a page."""
    lower = (layer / "lower").read_text().strip()
    name = layer.name
    return f"index=off,lowerdir={lower},upperdir={name}/diff,workdir={name}/work"


def _folder(root: int, path: str) -> int:
    """A folder of the view, made if it is missing, as the engine would at the next start."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    place = os.dup(root)
    for count in range(1, len(names) + 1):
        there = "/".join(names[:count])
        try:
            found = mounts.inside(root, there, _PARENT)
        except FileNotFoundError:
            os.mkdir(names[count - 1], 0o755, dir_fd=place)
            found = mounts.inside(root, there, _PARENT)
        os.close(place)
        place = found
    return place
