"""A computer of any size: /proc/meminfo, /proc/cpuinfo, and processors and memory controllers of /sys/devices/system as
the kernel would show them.

Mounted over the real ones, so that all programs see it; only for the sandbox, whose mounts are its own:

    with FakeHost(folder) as host:      64 GiB, 8 cores with two threads each
        host.memory(total_mib=8192)     less, from now on
"""

import shutil
import subprocess
from pathlib import Path

SYSTEM = Path("/sys/devices/system")
CORES = 8
THREADS = 2
TOTAL_MIB = 65536
AVAILABLE_MIB = 4608
"""What programs may take of it is what this machine really has."""
FLAGS = "fpu sse sse2 ssse3 sse4_1 sse4_2 aes avx avx2 fma"


class FakeHost:
    """`close` puts everything back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[Path] = []
        self._system = folder / "system"
        self._cpus = self._system / "cpu"

    def __enter__(self) -> "FakeHost":
        self._folder.mkdir(parents=True, exist_ok=True)
        self.memory()
        self._write_cores(CORES, THREADS)
        self.flags()
        self.ecc()
        for known in SYSTEM.iterdir():
            own = self._system / known.name
            if not own.exists():
                own.mkdir()
                self._mount(known, own)
        self._mount(self._folder / "meminfo", Path("/proc/meminfo"))
        self._mount(self._folder / "cpuinfo", Path("/proc/cpuinfo"))
        self._mount(self._system, SYSTEM)
        return self

    def __exit__(self, *_: object) -> None:
        for place in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", place], check=True)
        self._mounted.clear()

    def _mount(self, what: Path, place: Path) -> None:
        subprocess.run(["mount", "--rbind", what, place], check=True)
        self._mounted.append(place)

    def memory(self, total_mib: int = TOTAL_MIB, available_mib: int = AVAILABLE_MIB) -> None:
        lines = {"MemTotal": total_mib, "MemFree": available_mib, "MemAvailable": available_mib}
        lines |= dict.fromkeys(("Buffers", "Cached", "Shmem", "Active", "Inactive", "Slab", "SwapTotal", "SwapFree"), 0)
        text = "".join(f"{name}: {mib << 10} kB\n" for name, mib in lines.items())
        (self._folder / "meminfo").write_text(text)  # in place: what is mounted is the file and not its name

    def cores(self, count: int = CORES, threads: int = THREADS) -> None:
        """Physical ones, each with so many threads."""
        self._write_cores(count, threads)

    def flags(self, text: str = FLAGS) -> None:
        """What the processor can do."""
        block = "processor\t: {}\nmodel name\t: kaalia's stand-in for a processor @ 2.50GHz\nflags\t\t: {}\n\n"
        (self._folder / "cpuinfo").write_text("".join(block.format(number, text) for number in range(CORES * THREADS)))

    def ecc(self, corrected: int = 0, uncorrected: int = 0) -> None:
        """What the memory's controller counted since boot (EDAC)."""
        controller = self._system / "edac" / "mc" / "mc0"
        controller.mkdir(parents=True, exist_ok=True)
        for name, count in (("ce_count", corrected), ("ue_count", uncorrected)):
            part = controller / f"{name}.part"
            part.write_text(f"{count}\n")
            part.replace(controller / name)

    def each_core(self, **files: object) -> None:
        """Files of the kernel about each core; `__` stands for the folder's end. None: it is gone."""
        for folder in self._cpus.glob("cpu[0-9]*"):
            for name, value in files.items():
                path = folder / name.replace("__", "/")
                path.unlink(missing_ok=True)
                if value is not None:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(f"{value}\n")

    def _write_cores(self, count: int, threads: int) -> None:
        self._cpus.mkdir(parents=True, exist_ok=True)
        for folder in self._cpus.glob("cpu[0-9]*"):
            shutil.rmtree(folder)
        last = count * threads - 1
        for name in ("online", "possible", "present"):
            (self._cpus / name).write_text(f"0-{last}\n" if last else "0\n")
        for number in range(count * threads):
            first = number // threads * threads
            topology = self._cpus / f"cpu{number}" / "topology"
            topology.mkdir(parents=True)
            for name in ("core_cpus_list", "thread_siblings_list"):
                (topology / name).write_text(f"{first}-{first + threads - 1}\n")
