"""The public `vastai` client as its users run it: unmodified, in a process of its own, with a home of its own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).parents[2] / ".cache" / "vastai-venv" / "bin" / "vastai"
"""Where scripts/test installs the client; KAALIA_VASTAI names another one."""


def program() -> str:
    return os.environ.get("KAALIA_VASTAI", str(CLIENT))


class VastAI:
    """One user of one marketplace. `home` is made when missing and keeps the client's files."""

    def __init__(self, url: str, key: str, home: Path) -> None:
        self.url = url
        self.key = key
        self.home = home

    def run(self, *args: str, timeout_s: float = 60, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command to its end. The client exits 0 for most refusals: read stdout and stderr."""
        return self._run([program(), *args], timeout_s, stdin)

    def _run(
        self, argv: list[str], timeout_s: float, stdin: str | None, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        self.home.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            argv,
            env={**self.environment(), **(variables or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *args: str) -> Any:
        """Run with `--raw` and decode what it prints. Raises ValueError that quotes stderr when that is not JSON."""
        done = self.run(*args, "--raw")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise ValueError(
                f"vastai {args}: {done.returncode} {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}"
            ) from None

    def python(self, script: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script of ours in the client's own interpreter, as a user of the SDK class does."""
        return self._run([str(Path(program()).with_name("python")), str(script)], 300, None, variables)

    def environment(self) -> dict[str, str]:
        """Nothing of this user's own configuration; the key travels in the environment, not in argv."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "COLUMNS": "250",
            "VAST_URL": self.url,
            "VAST_API_KEY": self.key,
            "VASTAI_NO_UPDATE_CHECK": "1",
        }
