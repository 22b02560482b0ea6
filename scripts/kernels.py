"""Compiles the self-test's kernels (kaalia/selftest/work/kernels/*.cu) to PTX by NVIDIA's run-time compiler.

`--check` compares instead of writing, and exits 1 when a file is out of date. Run it by scripts/build-kernels, which
brings the compiler. Each file names the sources that it was made of by a digest, so that a test without the compiler
sees whether they fit.
"""

import ctypes
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kaalia/selftest/work/kernels"
COMPILER = ROOT / ".cache/nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
TARGETS = {"memory": 50, "compute": 50, "matrix": 50, "matrix70": 70, "matrix80": 80}
"""The oldest architecture that has what each file uses; drivers compile it for newer ones."""
PTX_VERSION = "7.0"
"""Of CUDA 11.0: a driver refuses text that is newer than itself, and the compiler writes its own version. That ptxas
takes the text as 7.0 (a test tries, where there is one) proves that it uses nothing newer."""


def main() -> int:
    stale = []
    for name in TARGETS:
        path, text = KERNELS / f"{name}.ptx", ptx(name)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)} out of date: run scripts/build-kernels", file=sys.stderr)
    return 1 if stale else 0


def digest(name: str) -> str:
    """Of the sources and of how they are compiled."""
    parts = [(KERNELS / part).read_bytes() for part in ("gpu.cuh", f"{name}.cu")]
    return hashlib.sha256(b"\0".join([*parts, repr((options(name), PTX_VERSION)).encode()])).hexdigest()


def options(name: str) -> list[str]:
    return [f"--gpu-architecture=compute_{TARGETS[name]}", "--std=c++17"]


def ptx(name: str) -> str:
    """The text of one file. Raises RuntimeError with the compiler's log."""
    compiler = ctypes.CDLL(str(COMPILER))
    program = ctypes.c_void_p()
    source = (KERNELS / f"{name}.cu").read_bytes()
    header = (KERNELS / "gpu.cuh").read_bytes()
    code = compiler.nvrtcCreateProgram(
        *(ctypes.byref(program), source, f"{name}.cu".encode(), 1),
        *((ctypes.c_char_p * 1)(header), (ctypes.c_char_p * 1)(b"gpu.cuh")),
    )
    words = [option.encode() for option in options(name)]
    code = code or compiler.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    if code:
        raise RuntimeError(f"{name}.cu: error {code}\n{_text(compiler, 'ProgramLog', program)}")
    text = re.sub(r"(?m)^//.*\n", "", _text(compiler, "PTX", program))
    text = re.sub(r"(?m)^\.version .*$", f".version {PTX_VERSION}", text)
    return f"// Made by scripts/build-kernels from {name}.cu and gpu.cuh, sha256 {digest(name)}\n{text.strip()}\n"


def _text(compiler: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(compiler, f"nvrtcGet{what}")(program, text)
    return text.value.decode()


if __name__ == "__main__":
    sys.exit(main())
