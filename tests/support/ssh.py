"""The real OpenSSH client against a rented instance."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Ssh:
    """`key`: a private key's file. What is learnt of host keys stays beside it, and a changed one is refused.

    `hosts`: the file's name; one for each instance, since a later instance may get the port of an earlier one.
    """

    key: Path
    port: int
    host: str = "127.0.0.1"
    user: str = "root"
    options: tuple[str, ...] = field(default=())
    hosts: str = "known_hosts"

    def run(self, *words: str, stdin: str | bytes = b"", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """`ssh HOST WORDS`; words before the host are `options`."""
        command = ["ssh", *self.flags("-p"), *self.options, f"{self.user}@{self.host}", *words]
        return self._ended(command, stdin, timeout_s)

    @property
    def place(self) -> str:
        return f"{self.user}@{self.host}"

    @property
    def known_hosts(self) -> Path:
        return self.key.with_name(self.hosts)

    def flags(self, port_flag: str) -> list[str]:
        options = ["StrictHostKeyChecking=accept-new", "BatchMode=yes", "IdentitiesOnly=yes", "ConnectTimeout=10"]
        options += [f"UserKnownHostsFile={self.known_hosts}", "LogLevel=ERROR"]
        words = [word for option in options for word in ("-o", option)]
        return ["-F", "none", "-i", str(self.key), port_flag, str(self.port), *words]

    @staticmethod
    def _ended(command: list[str], stdin: str | bytes, timeout_s: float) -> subprocess.CompletedProcess[str]:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(command, input=raw, capture_output=True, timeout=timeout_s, check=False)
        texts = (done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        return subprocess.CompletedProcess(command, done.returncode, *texts)


def new_key(folder: Path, name: str = "key") -> tuple[Path, str]:
    """A fresh key pair: the private key's file, and the public key as a line."""
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@tests", "-f", str(path)]
    subprocess.run(command, check=True)
    return path, path.with_suffix(".pub").read_text().strip()
