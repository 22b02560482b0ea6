"""The PTX that is kept in the tree is what its sources say, and what assemblers of all generations take."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import kernels

PTXAS = os.environ.get("KAALIA_PTXAS") or shutil.which("ptxas") or ""
ARCHITECTURES = (50, 61, 70, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)


@pytest.mark.parametrize("name", kernels.TARGETS)
def test_the_text_was_made_of_these_sources(name: str) -> None:
    text = (kernels.KERNELS / f"{name}.ptx").read_text()

    assert f"sha256 {kernels.digest(name)}\n" in text.splitlines(keepends=True)[0], "run scripts/build-kernels"
    assert f"\n.target sm_{kernels.TARGETS[name]}\n" in text
    entries = set(
        re.findall(r"KERNEL void (?:__launch_bounds__\(.*?\) )?(\w+)", (kernels.KERNELS / f"{name}.cu").read_text())
    )
    assert set(re.findall(r"\.visible \.entry (\w+)\(", text)) == entries


@pytest.mark.skipif(not kernels.COMPILER.exists(), reason="no NVRTC: scripts/build-kernels brings it")
@pytest.mark.parametrize("name", kernels.TARGETS)
def test_the_compiler_makes_the_same_text(name: str) -> None:
    assert kernels.ptx(name) == (kernels.KERNELS / f"{name}.ptx").read_text()


@pytest.mark.skipif(not PTXAS, reason="no ptxas")
@pytest.mark.parametrize("name", kernels.TARGETS)
def test_assemblers_take_it_without_spilling(name: str, tmp_path: Path) -> None:
    """As PTX 7.0, as its first line says: nothing in it is newer."""
    known = subprocess.run([PTXAS, "--help"], capture_output=True, text=True, check=True).stdout
    targets = [one for one in ARCHITECTURES if one >= kernels.TARGETS[name] and f"sm_{one}'" in known]
    assert targets

    for target in targets:
        argv = [PTXAS, f"-arch=sm_{target}", "-v", str(kernels.KERNELS / f"{name}.ptx"), "-o", str(tmp_path / "out")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr
        spills = re.findall(r"(\d+) bytes spill", done.stderr)
        assert spills
        assert not any(int(one) for one in spills), f"sm_{target}"
