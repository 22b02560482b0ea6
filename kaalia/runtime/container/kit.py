"""The access kit on this machine's disk, and a folder for each contract that containers see beside it.

    FOLDER/current -> 78e2cb93045bede7     what scripts/build-kit made; containers keep the one they began with
    FOLDER/../access/C.51/                 host_key, authorized_keys, user: read-only inside, written only from here
    FOLDER/../access/C.51/jupyter/         where Jupyter is wanted: key.pem, chain.pem

The keys follow from the machine's own key: they are the same after stop, start, recycle, and a loss of the folder.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kaalia.contracts.contract import Contract
from kaalia.errors import HostError, WorkloadError
from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.access import Kit, keys_of

CURRENT = "current"


@dataclass(frozen=True, slots=True)
class AccessFolders:
    """By contract id: `host_key`, of its sshd, in OpenSSH's form; `tls_key`, of its Jupyter, PEM."""

    kits: Path
    contracts: Path
    host_key: Callable[[int], bytes]
    tls_key: Callable[[int], bytes]

    def kit(self, contract_id: int) -> Kit:
        """What to mount. Raises WorkloadError `kit_missing`."""
        return Kit(str(newest(self.kits)), str(self._of(contract_id)))

    def write(self, contract: Contract, user: str | None = None, chain: str | None = None) -> None:
        """Make the contract's folder, or bring its keys up to date. `user`: whom onstart runs as; None: as before.

        `chain`: the certificate of its Jupyter; None: as before.

        Raises HostError `access_unwritable`.
        """
        folder = self._of(contract.contract_id)
        try:
            self.contracts.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            host_key = folder / "host_key"
            if not (host_key.exists() and host_key.stat().st_size):  # empty: the machine lost its power right then
                _write(host_key, self.host_key(contract.contract_id), 0o600)
            if user is not None:
                _write(folder / "user", f"{user}\n".encode(), 0o644)
            self._write_keys(contract)
            self._write_jupyter(contract, chain)
        except OSError as error:
            raise _unwritable(contract, folder, error) from error

    def renew(self, contract: Contract, chain: str | None = None) -> None:
        """Bring what an older generation has up to date, whose container is there: nothing comes and nothing goes.

        Raises HostError `access_unwritable`.
        """
        folder = self._of(contract.contract_id)
        try:
            # Those of an older marketplace are in the newer generation's variables, if it has access at all.
            if contract.ssh_keys is not None and folder.exists():
                self._write_keys(contract)
            if chain is not None and (folder / "jupyter").exists():
                _write(folder / "jupyter" / "chain.pem", chain.encode(), 0o644)
        except OSError as error:
            raise _unwritable(contract, folder, error) from error

    def _write_keys(self, contract: Contract) -> None:
        lines = "".join(f"{line}\n" for line in keys_of(contract))
        _write(self._of(contract.contract_id) / "authorized_keys", lines.encode(), 0o644)

    def _write_jupyter(self, contract: Contract, chain: str | None) -> None:
        """The kit runs it where this folder is."""
        folder = self._of(contract.contract_id) / "jupyter"
        if contract.spec.launch_mode is not LaunchMode.JUPYTER:
            shutil.rmtree(folder, ignore_errors=True)
            return
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        _write(folder / "key.pem", self.tls_key(contract.contract_id), 0o600)
        if chain is not None:
            _write(folder / "chain.pem", chain.encode(), 0o644)

    def forget(self, contract_id: int) -> None:
        """The container is gone."""
        shutil.rmtree(self._of(contract_id), ignore_errors=True)

    def _of(self, contract_id: int) -> Path:
        return self.contracts / f"C.{contract_id}"


def put_file(contracts: Path, contract_id: int, name: str, content: bytes) -> None:
    """A file beside those of a contract's folder, for its tenant to read; where there is no folder nobody could.

    Raises HostError `access_unwritable`.
    """
    folder = contracts / f"C.{contract_id}"
    try:
        if folder.is_dir():
            _write(folder / name, content, 0o644)
    except OSError as error:
        raise HostError(
            "access_unwritable",
            f"cannot write {name} of C.{contract_id} into {folder}: {error}",
            remedy="free space on the machine's disk, and see that root may write there",
        ) from error


def newest(kits: Path) -> Path:
    """The kit for containers that are made now. Raises WorkloadError `kit_missing`."""
    try:
        folder = (kits / CURRENT).resolve(strict=True)
        if not (folder / "sbin" / "init").is_file():
            raise FileNotFoundError(f"{folder} has no sbin/init")
    except OSError as error:
        raise missing(str(error)) from error
    return folder


def missing(evidence: str) -> WorkloadError:
    return WorkloadError(
        "kit_missing",
        "cannot start in ssh or jupyter mode: the access kit is not on this machine",
        remedy="run install.sh again on the machine, or scripts/build-kit; or rent with runtype args",
        evidence=evidence,
    )


def _unwritable(contract: Contract, folder: Path, error: OSError) -> HostError:
    return HostError(
        "access_unwritable",
        f"cannot write who may log in to C.{contract.contract_id} into {folder}: {error}",
        remedy="free space on the machine's disk, and see that root may write there",
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all: sshd may be reading it. Untouched when it is so already.

    Not forced to the disk: all of it can be worked out again, and is, when the daemon starts.
    """
    if path.exists() and path.read_bytes() == content:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    new.rename(path)
