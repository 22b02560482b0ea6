"""What the build of the image wrote down: thresholds, deadlines, and arguments of the steps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORK = Path("kaalia/selftest/work")
"""Where the machine's own work programs lie, here as there: they find their parts by it."""


@dataclass(frozen=True)
class Limits:
    """`vram_free_share`: of each GPU before anything runs; `ram_share`: of all GPUs' memory, `ram_cap_mib` at most."""

    vram_free_share: float
    ram_share: float
    ram_cap_mib: float
    cores_per_gpu: int


@dataclass(frozen=True)
class Settings:
    """`arguments` and `deadline_s` by step; the arguments as its program reads them.

    `quiet_s`: after so long without news the progress is empty, by which the client knows that the test is stuck.
    """

    folder: Path
    port: int
    quiet_s: float
    deadline_s: Mapping[str, float]
    arguments: Mapping[str, dict[str, Any]]
    limits: Limits

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        told = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        return cls(folder=folder, **{**told, "limits": Limits(**told["limits"])})

    def program(self, step: str) -> Path:
        return self.folder / WORK / f"{step}.py"
