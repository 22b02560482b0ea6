"""Access kits that a newer one took the place of: they go when nothing on this machine has them mounted any more.

    FOLDER/current -> 78e2cb93045bede7     the newest: it stays
    FOLDER/972d2641e795b1c4/               an older one, which containers keep that were made with it

A container mounts the kit that was the newest when it was made, so nobody comes to an older one later.
"""

import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kaalia.clock import from_epoch
from kaalia.errors import HostError
from kaalia.host import mounted
from kaalia.runtime.container.kit import CURRENT, newest

GRACE = timedelta(hours=1)
"""After another one became the newest: a container may just be on its way with the one before."""
_NAME = re.compile(r"[0-9a-f]{16}")
"""As scripts/build-kit names them."""
_GOING = ".going."
"""What is being removed is no kit any more, so that a crash leaves no half of one."""


@dataclass(frozen=True, slots=True)
class Kits:
    """All kits of one machine. `is_own`: nobody else has their folder, so what nobody uses here may go.

    `mounts`: names of folders that any process has mounted.
    """

    folder: Path
    is_own: bool
    mounts: Callable[[], frozenset[str]] = mounted.names

    def check(self) -> None:
        """Raises WorkloadError `kit_missing`."""
        newest(self.folder)

    def older(self, now: datetime) -> tuple[Path, ...]:
        """Those that nobody will come to any more, in use or not. Raises HostError `kit_unremovable`."""
        if not self.is_own:
            return ()
        try:
            link = self.folder / CURRENT
            if now - from_epoch(link.lstat().st_mtime) < GRACE:
                return ()
            current = link.resolve(strict=True).name
            found = [path for path in self.folder.iterdir() if path.name != current and _is_kit(path)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unremovable(error) from error
        return tuple(sorted(found))

    def remove(self, older: Collection[Path], sources: Collection[str]) -> tuple[str, ...]:
        """The names of those that went. `sources`: all that containers have mounted, also those that do not run.

        Raises HostError `kit_unremovable`.
        """
        try:
            used = self.mounts() | {Path(source).name for source in sources}
            return tuple(path.name for path in older if path.name not in used and self._remove(path))
        except OSError as error:
            raise self._unremovable(error) from error

    def _remove(self, path: Path) -> bool:
        """False: it has just become the newest again. Raises OSError."""
        going = path
        if not path.name.startswith(_GOING):
            going = path.with_name(f"{_GOING}{path.name}")
            shutil.rmtree(going, ignore_errors=True)
            path.rename(going)
            if (self.folder / CURRENT).resolve().name == path.name:
                going.rename(path)
                return False
        shutil.rmtree(going)
        return True

    def _unremovable(self, error: OSError) -> HostError:
        return HostError(
            "kit_unremovable",
            f"cannot remove older access kits in {self.folder}: {error}",
            remedy="see that root may write there; nothing else is wrong",
        )


def _is_kit(path: Path) -> bool:
    is_named = _NAME.fullmatch(path.name.removeprefix(_GOING)) is not None
    return is_named and not path.is_symlink() and path.is_dir()
