"""The machine's key for relays: one file, one key, readable by real ssh."""

import stat
import subprocess
from pathlib import Path

from kaalia.tunnel.key import ensure_key


def test_the_key_is_made_once_and_ssh_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    public = ensure_key(folder)
    (folder / "key").chmod(0o644)

    assert ensure_key(folder) == public
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    told = subprocess.run(["ssh-keygen", "-y", "-f", folder / "key"], capture_output=True, text=True, check=True).stdout
    assert told.split()[:2] == public.split()


def test_a_damaged_key_is_replaced(tmp_path: Path) -> None:
    public = ensure_key(tmp_path)
    (tmp_path / "key").write_text("x")

    assert ensure_key(tmp_path) != public
