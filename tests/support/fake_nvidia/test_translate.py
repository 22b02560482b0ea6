"""PTX becomes C++ that does the same, or is refused."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from tests.support.fake_nvidia.translate import translated

ENTRY = ".visible .entry try_it(\n\t.param .u64 try_it_param_0,\n\t.param .u32 try_it_param_1\n)\n{{\n{body}\n}}\n"
REGISTERS = "\t.reg .pred \t%p<3>;\n\t.reg .b32 \t%r<9>;\n\t.reg .f32 \t%f<3>;\n\t.reg .b64 \t%rd<9>;\n"
HERE = Path(__file__).parent


def result(tmp_path: Path, body: str, given: int) -> int:
    """What a kernel leaves in %r2, as whole number of 32 bits."""
    head = "\tld.param.u64 \t%rd1, [try_it_param_0];\n\tld.param.u32 \t%r1, [try_it_param_1];\n"
    text = ENTRY.format(body=f"{REGISTERS}{head}{body}\tst.global.u32 \t[%rd1], %r2;\n\tret;\n")
    (tmp_path / "kernels.inc").write_text(translated([text]))
    flags = ["-std=c++17", "-fPIC", "-shared", "-Wno-unused", f"-I{HERE}", f"-I{tmp_path}"]
    subprocess.run(["g++", *flags, "-o", tmp_path / "out.so", HERE / "kernels.cc"], check=True)
    out, argument = ctypes.c_uint64(), ctypes.c_uint32(given)
    address = ctypes.c_uint64(ctypes.addressof(out))
    pointers = (ctypes.c_void_p * 2)(ctypes.addressof(address), ctypes.addressof(argument))
    assert ctypes.CDLL(str(tmp_path / "out.so")).kaalia_kernel_run(b"try_it", 1, 1, pointers)
    return out.value


def test_a_loop_and_a_branch_do_what_they_say(tmp_path: Path) -> None:
    """The sum of the squares below a number, in singles, by a predicate that is negated."""
    body = (
        "\tmov.f32 \t%f1, 0f00000000;\n\tmov.u32 \t%r3, 0;\n$L__BB0_1:\n\tcvt.rn.f32.u32 \t%f2, %r3;\n"
        "\tfma.rn.f32 \t%f1, %f2, %f2, %f1;\n\tadd.s32 \t%r3, %r3, 1;\n\tsetp.lt.u32 \t%p1, %r3, %r1;\n"
        "\t@!%p1 bra \t$L__BB0_2;\n\tbra.uni \t$L__BB0_1;\n$L__BB0_2:\n\tmov.b32 \t%r4, %f1;\n"
        "\txor.b32 \t%r2, %r4, -1;\n\tnot.b32 \t%r2, %r2;\n"
    )

    assert result(tmp_path, body, 5) == 0x41F00000, "30.0"


@pytest.mark.parametrize(
    "statement", ["tanh.approx.f32 %f1, %f2;", "mma.sync.aligned.m16n8k8 %r1, %r2;", "vote.all.pred %p1, %p2;"]
)
def test_what_it_does_not_know_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="cannot translate"):
        translated([ENTRY.format(body=f"{REGISTERS}\t{statement}\n\tret;\n")])
