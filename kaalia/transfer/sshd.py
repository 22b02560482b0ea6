"""How the kit's sshd and rsync are told to serve one holder's files, and nothing else. Pure: texts and argument lists.

Of a login nothing is taken but the proof of a key: one command, whatever was asked for, no terminal, no forwarding. The
account is called `vastai_kaalia`, as the public client has it; it exists inside the cell only.
"""

from collections.abc import Iterable, Mapping

from kaalia.model.copying import Holder, HolderKind

ACCOUNT = "vastai_kaalia"
KIT = "/.kaalia"
FILES = "/files"
"""Where the cell shows the holder's files."""
HOST_KEY = "/etc/host_key"
LOGIN_GRACE_S = 30
LET_IN = f"Accepted publickey for {ACCOUNT} "
"""So begins a line of sshd's, and no other one: what strangers send it quotes behind words of its own."""
TOLD = (LET_IN, "error: ", "fatal: ", "cannot ")
"""So begin lines, of sshd's and of the cell's, that the machine's owner should see."""
RSYNC = f"{KIT}/bin/rsync"
SERVE = f"exec {RSYNC} --server --daemon --config=/etc/rsyncd.conf ."

ARGV = (f"{KIT}/sbin/sshd", "-i", "-e", "-f", "/etc/sshd_config")
ENV: Mapping[str, str] = {
    "LD_PRELOAD": f"{KIT}/lib/libnss_wrapper.so",
    "NSS_WRAPPER_PASSWD": "/etc/passwd",
    "NSS_WRAPPER_GROUP": "/etc/group",
    "PATH": f"{KIT}/bin",
}
_PASSWD = f"{ACCOUNT}:*:0:0::/:{KIT}/applets/sh\nsshd:*:65533:65533::/:/bin/false\n"
_GROUP = "root:x:0:\nsshd:x:65533:\n"


def files(holder: Holder, keys: Iterable[str], parts: Iterable[str], *, is_read_only: bool = False) -> dict[str, str]:
    """By path in the cell. `parts`: lines of the kit's own sshd_config that name programs of newer OpenSSHs."""
    return {
        "/etc/passwd": _PASSWD,
        "/etc/group": _GROUP,
        "/etc/authorized_keys": "".join(f'restrict,command="{SERVE}" {key}\n' for key in keys),
        "/etc/sshd_config": _sshd_config(parts),
        "/etc/rsyncd.conf": _rsyncd_conf(holder, is_read_only=is_read_only),
    }


def _sshd_config(parts: Iterable[str]) -> str:
    lines = [
        f"HostKey {HOST_KEY}",
        "PidFile none",
        "AuthorizedKeysFile /etc/authorized_keys",
        "StrictModes no",
        f"AllowUsers {ACCOUNT}",
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "HostbasedAuthentication no",
        "PermitRootLogin forced-commands-only",
        f"ForceCommand {SERVE}",
        "UsePAM no",
        "MaxSessions 1",
        "DisableForwarding yes",
        "PermitTTY no",
        "PermitUserRC no",
        "PermitUserEnvironment no",
        "PermitTunnel no",
        "X11Forwarding no",
        f"LoginGraceTime {LOGIN_GRACE_S}",
        "MaxAuthTries 20",
        "ClientAliveInterval 30",
        "ClientAliveCountMax 4",
        "UseDNS no",
        "PrintMotd no",
        "PrintLastLog no",
        "LogLevel INFO",
        *parts,
    ]
    return "\n".join(lines) + "\n"


def _rsyncd_conf(holder: Holder, *, is_read_only: bool) -> str:
    """Modules `C.7001` and, for an instance, the older name `7001`."""
    names = [str(holder), *([str(holder.number)] if holder.kind is HolderKind.INSTANCE else [])]
    lines = [
        "use chroot = yes",
        "numeric ids = yes",
        "munge symlinks = no",
        f"read only = {'yes' if is_read_only else 'no'}",
        "uid = 0",
        "gid = 0",
        "list = no",
        "reverse lookup = no",
        "timeout = 600",
        "log file = /dev/null",
        "refuse options = copy-devices write-devices",
        *(line for name in names for line in (f"[{name}]", f"path = {FILES}")),
    ]
    return "\n".join(lines) + "\n"
