"""Who may talk to the local API: whoever may open its unix socket. There is no TCP port, hence nothing to log in to.

The socket belongs to root and, where the group `kaalia` exists, to that group, mode 0660.
"""

import grp
import os
import socket
from pathlib import Path

from kaalia.errors import ConfigError

GROUP = "kaalia"
MODE = 0o660


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, in place of one that a dead process left. Raises ConfigError."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _clear(path)
        # The mode is right from the first moment on: nobody can slip in between bind and chmod.
        before = os.umask(0o777 & ~MODE)
        try:
            door.bind(str(path))
        finally:
            os.umask(before)
        _give_to_group(path)
        door.listen(64)
        door.setblocking(False)
    except OSError as error:
        door.close()
        raise ConfigError(
            "socket_unusable", f"cannot listen on {path}: {error}", remedy="set socket to a path that can be created"
        ) from error
    except ConfigError:
        door.close()
        raise
    return door


def _clear(path: Path) -> None:
    """Remove a socket that nobody answers on; anything else is left alone."""
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError(
            "socket_unusable", f"cannot listen on {path}: it is not a socket", remedy="move that file or set socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(
        "socket_in_use", f"cannot listen on {path}: another process answers there", remedy="stop it or set socket"
    )


def _give_to_group(path: Path) -> None:
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    if os.geteuid() == 0:
        os.chown(path, -1, group)
