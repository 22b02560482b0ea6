"""Programs of the machine as a test wants them: small scripts in a folder that stands first in the PATH."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest


def answering(folder: Path, says: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name prints its text, whatever it is asked."""
    folder.mkdir()
    for name, text in says.items():
        (folder / f"{name}.txt").write_text(text)
        program = folder / name
        program.write_text(f"#!/bin/sh\nexec cat '{folder / name}.txt'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
