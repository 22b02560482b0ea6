"""How a relay is run, and what is refused before it starts."""

import errno
import os
import pwd
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from kaalia.contracts import relay as rules
from kaalia.errors import ConfigError
from kaalia.model.machine import PortRange

PLACES = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where sshd is, besides the PATH: that of an ordinary user may lack them."""
ROOTS_USER = "nobody"


@dataclass(frozen=True, slots=True)
class Options:
    """`marketplace`: base URL without a last slash. `user`: whom machines log in as; `sshd`: the program's path."""

    name: str
    address: str
    port: int
    ports: PortRange
    marketplace: str
    token: str
    data: Path
    user: str
    sshd: Path


def find_sshd(path: str | None = None, places: str = PLACES) -> Path:
    """Raises ConfigError `sshd_missing`. `path`: as the variable PATH."""
    found = shutil.which("sshd", path=f"{path or os.environ.get('PATH', '')}:{places}")
    if found is None:
        raise ConfigError(
            "sshd_missing",
            "cannot run a relay: the program sshd is not on this machine",
            remedy="install it, without starting it as a service: apt install openssh-server",
        )
    return Path(found).absolute()  # it starts itself anew by this name


def login_user(wanted: str | None) -> str:
    """As root any user but root, by default `nobody`; else oneself. Raises ConfigError `relay_user_invalid`."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    is_root = os.geteuid() == 0
    user = wanted or (ROOTS_USER if is_root else own)
    if not is_root and user != own:
        remedy = "run it as root, or leave --user out"
        raise ConfigError(
            "relay_user_invalid", f"cannot let machines log in as {user}: this program runs as {own}", remedy=remedy
        )
    try:
        is_powerful = pwd.getpwnam(user).pw_uid == 0
    except KeyError:
        remedy = f"make it: useradd --system --no-create-home --password '*' --shell /usr/sbin/nologin {user}"
        raise ConfigError("relay_user_invalid", f"cannot find user {user}", remedy=remedy) from None
    if is_powerful:
        remedy = "name a user without rights, such as nobody"
        raise ConfigError("relay_user_invalid", "cannot let machines log in as root", remedy=remedy)
    return rules.check_user(user)


def check_address(address: str, port: int) -> None:
    """That sshd will be able to listen there. Raises ConfigError `address_invalid`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        why, remedy = error.strerror or str(error), "use an address of this machine"
        if error.errno == errno.EADDRINUSE:
            why, remedy = "another program does", f"see who does: ss -ltnp 'sport = :{port}'; or choose another port"
        elif error.errno == errno.EACCES:
            why, remedy = "only root may use ports below 1024 here", "choose a port from 1024 on, or run it as root"
        raise ConfigError("address_invalid", f"cannot listen on {address}:{port}: {why}", remedy=remedy) from error
