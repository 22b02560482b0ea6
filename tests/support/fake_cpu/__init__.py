"""A processor with a bad core, built by gcc: what it does stands at the top of core.c.

env = os.environ | environment(folder, control)      for a process and its children; `control` may change at any time
"""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("core.c")


def environment(folder: Path, control: Path) -> dict[str, str]:
    """Build it into `folder`; `control` is made, and the processor is well."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libkaalia-fake-cpu.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE], check=True)
    control.write_text("")
    return {"LD_PRELOAD": str(library), "KAALIA_FAKE_CPU": str(control)}
