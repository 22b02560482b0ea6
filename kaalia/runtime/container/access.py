"""What a container of mode ssh or jupyter gets: the access kit, a folder of the contract's, and a few files.

Mode args gets nothing. `scripts/build-kit` makes the kit, whose `init` is process 1 in place of the image's entrypoint.
"""

import io
import tarfile
from dataclasses import dataclass
from typing import Any

from kaalia.contracts.contract import Contract
from kaalia.errors import WorkloadError
from kaalia.model.workload import LaunchMode, WorkloadSpec

MOUNT = "/.kaalia"
"""Where containers see the kit, read-only. Its programs name their loader and libraries by this path."""
CONTRACT_MOUNT = f"{MOUNT}/contract"
RUN_MOUNT = f"{MOUNT}/run"
INIT = f"{MOUNT}/sbin/init"
NOTEBOOK_STATUS = "/.kaalia-jupyter/status"
"""Where the kit notes how Jupyter is doing, in the words of `contracts.notebook`."""
LAUNCH_PATH = "/.launch"
LAUNCH = f"""\
#!{MOUNT}/sbin/busybox sh
# kaalia runs this container: {{what}}, and /root/onstart.sh at each start.
exec {INIT}
"""
"""Public images look whether this file is there, and whether it names the notebook server; nobody need run it."""

_RUN_OPTIONS = "rw,exec,nosuid,nodev,mode=0755,size=8m"


@dataclass(frozen=True, slots=True)
class Kit:
    """Folders of this machine: the kit, and what one contract has beside it (`kaalia.runtime.container.kit`)."""

    folder: str
    contract_folder: str

    def mounts(self) -> list[dict[str, Any]]:
        return [_read_only(self.folder, MOUNT), _read_only(self.contract_folder, CONTRACT_MOUNT)]

    @staticmethod
    def tmpfs() -> dict[str, str]:
        """Made anew at each start: what the kit notes down."""
        return {RUN_MOUNT: _RUN_OPTIONS}


def has_access(spec: WorkloadSpec) -> bool:
    """The launch mode lets renters in by ssh."""
    return spec.launch_mode is not LaunchMode.ARGS


def keys_of(contract: Contract) -> tuple[str, ...]:
    """Public keys that may log in, one line each."""
    if contract.ssh_keys is not None:
        return contract.ssh_keys
    # An older marketplace tells those of the account only, and never others.
    return tuple(dict(contract.spec.env).get("SSH_PUBLIC_KEY", "").splitlines())


def account(passwd: str, user: str) -> str | None:
    """The name of the account that `user` means, a name or a number, by an image's /etc/passwd."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and user in (fields[0], fields[2]):
            return fields[0]
    return None


def user_unknown(user: str) -> WorkloadError:
    return WorkloadError(
        "user_unknown",
        f"cannot run as user={user!r}: the image's /etc/passwd has no such account",
        remedy="name an account of the image, or leave user out: root is the default",
    )


def archive(spec: WorkloadSpec, contract_id: int) -> bytes | None:
    """The tar to unpack at `/` of the created container; None when the launch mode adds nothing."""
    if not has_access(spec):
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        is_notebook = spec.launch_mode is LaunchMode.JUPYTER
        what = "sshd on port 22, jupyter on port 8080" if is_notebook else "sshd on port 22"
        _add(tar, LAUNCH_PATH, LAUNCH.format(what=what), 0o755)
        # The image may have no /root; without this entry the engine would make one that everyone may write to.
        root = tarfile.TarInfo("root")
        root.type, root.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(root)
        _add(tar, "/root/onstart.sh", _unix_lines(spec.onstart or ""), 0o755)
        _add(tar, "/root/.vast_containerlabel", f"C.{contract_id}\n", 0o644)
    return buffer.getvalue()


def _read_only(source: str, target: str) -> dict[str, Any]:
    """Of type bind, which the engine refuses when the source is not there, rather than to make it."""
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def _add(tar: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _unix_lines(text: str) -> str:
    """Scripts are often pasted with Windows line ends, which no shell understands; the last line gets its end."""
    lines = text.replace("\r\n", "\n")
    return lines if not lines or lines.endswith("\n") else lines + "\n"
