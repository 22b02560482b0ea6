"""Where volumes lie: paths built from nothing but the machine's name and a number, and checked before each use.

<folder>/<machine>/V.<id>/data    what the container sees
<folder>/<machine>/V.<id>.key     written last: the volume is whole, and whose it is
<folder>/<machine>/V.<id>.img     the file behind a loop volume
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from kaalia.contracts.volume import VOLUME_ID_MAX
from kaalia.errors import WorkloadError

FOLDER = "kaalia-volumes"
_NAME = re.compile(r"V\.([1-9][0-9]{0,9})(?:\.img|\.key)?")
_MACHINE = re.compile(r"[0-9]+@[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Place:
    """The volumes of one machine below `folder`."""

    folder: Path
    machine: str

    @property
    def root(self) -> Path:
        if not _MACHINE.fullmatch(self.machine):
            raise ValueError(f"{self.machine!r} is no name of a machine")
        return self.folder / self.machine

    def home(self, volume_id: int) -> Path:
        if not 0 < volume_id <= VOLUME_ID_MAX:
            raise WorkloadError("volume_missing", f"cannot use volume {volume_id}: there is no such number")
        return self.root / f"V.{volume_id}"

    def data(self, volume_id: int) -> Path:
        return self.home(volume_id) / "data"

    def key_file(self, volume_id: int) -> Path:
        return self.home(volume_id).with_name(f"V.{volume_id}.key")

    def image(self, volume_id: int) -> Path:
        return self.home(volume_id).with_name(f"V.{volume_id}.img")

    def key(self, volume_id: int) -> str | None:
        """The key of a whole volume; None: it is not there, or was never finished."""
        try:
            return self.key_file(volume_id).read_text().strip() or None
        except FileNotFoundError:
            return None

    def found(self) -> tuple[int, ...]:
        """Ids of everything that is called like a volume."""
        if not self.root.is_dir():
            return ()
        names = (_NAME.fullmatch(entry.name) for entry in self.root.iterdir())
        return tuple(sorted({int(name[1]) for name in names if name}))

    def check(self, volume_id: int) -> Path:
        """The folder to bind: real folders all the way, none of them a link. Raises WorkloadError `volume_missing`."""
        data = self.data(volume_id)
        for path in (self.root, data.parent, data):
            try:
                mode = os.lstat(path).st_mode
            except OSError as error:
                raise missing(volume_id, str(error)) from error
            if not stat.S_ISDIR(mode):
                raise missing(volume_id, f"{path} is no folder")
        if Path(os.path.realpath(data)) != Path(os.path.realpath(self.folder)) / self.machine / f"V.{volume_id}/data":
            raise missing(volume_id, f"{data} leads elsewhere")
        return data


def missing(volume_id: int, evidence: str) -> WorkloadError:
    return WorkloadError(
        "volume_missing",
        f"cannot find the data of volume {volume_id} on this machine",
        remedy="the owner mounts the disk that holds it (see `kaalia disk`); nothing is made anew in its place",
        evidence=evidence,
    )
