"""The GPU programs on a simulated driver that computes: what is well passes, what is wrong is found by comparison."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kaalia.model.selftest import Outcome
from tests.selftest.work import gpu_programs
from tests.selftest.work.conftest import Run
from tests.support.fake_nvidia.build import build_cuda, environment
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, write

PEERS = setting(0, "p2p_1", 0)
SMALL = setting(0, "cuda_mb", 4) + setting(1, "cuda_mb", 4)
ONE, TWO = SMALL + machine("1xRTX_4090"), SMALL + machine("2xRTX_4090")
BRIEF: dict[str, dict[str, object]] = {"burn": {"minutes": 0.0}}
FIGURES = [
    ("memory", ["memory_tested_percent", "memory_tested_gb"]),
    ("compute", ["compute_results"]),
    ("matrix", ["matrix_tflops", "single_tflops", "matrix_size"]),
    ("device_bandwidth", ["device_bandwidth_gbps"]),
    ("host_bandwidth", ["host_to_device_gbps", "device_to_host_gbps"]),
    ("peer_bandwidth", ["peer_gbps"]),
    ("burn", ["burn_tflops", "burn_tflops_least", "burn_products"]),
]


@pytest.mark.parametrize(("program", "figures"), FIGURES)
def test_what_is_well_passes_and_is_measured(run: Run, program: str, figures: list[str]) -> None:
    said = run(program, TWO, quick=True, **BRIEF.get(program, {}))

    assert said.end.outcome is Outcome.PASSED
    for name in figures:
        values = said.figures(name)
        assert set(values) == {gpu_uuid(0), gpu_uuid(1)}, name
        assert all(value > 0 for value in values.values()), name


def test_memory_is_filled_to_95_percent(run: Run) -> None:
    said = run("memory", ONE, quick=True)

    assert said.figures("memory_tested_percent")[gpu_uuid(0)] == pytest.approx(95, abs=0.5)
    assert said.figures("memory_words_wrong") == {gpu_uuid(0): 0}


@pytest.mark.parametrize("peers", ["", PEERS])
def test_all_gpus_agree_on_a_sum(run: Run, peers: str) -> None:
    said = run("collective", peers + setting(2, "cuda_mb", 4) + SMALL + machine("3xRTX_4090"), quick=True)

    assert said.end.outcome is Outcome.PASSED
    assert said.figures("collective_gpus") == {None: 3}
    assert said.figures("collective_bus_gbps")[None] > 0


def test_direct_ways_are_counted(run: Run) -> None:
    assert run("peer_bandwidth", PEERS + TWO, quick=True).figures("peer_direct_percent") == {None: 100}
    assert run("peer_bandwidth", TWO, quick=True).figures("peer_direct_percent") == {None: 0}


@pytest.mark.parametrize("program", ["peer_bandwidth", "collective"])
def test_one_gpu_has_no_peers(run: Run, program: str) -> None:
    said = run(program, ONE)

    assert said.end.outcome is Outcome.SKIPPED
    assert "one GPU" in said.end.words


def test_a_gpu_before_sm_80_multiplies_fp16(run: Run) -> None:
    said = run("matrix", setting(0, "cuda_mb", 4) + machine("1xT4"), quick=True)

    assert said.end.outcome is Outcome.PASSED, said.end
    assert "fp16 on tensor cores" in said.end.words


def test_a_gpu_without_tensor_cores_multiplies_singles(run: Run) -> None:
    said = run("matrix", setting(0, "compute_capability", "6.1") + ONE, quick=True)

    assert said.end.outcome is Outcome.PASSED
    assert "(fp32)" in said.end.words


@pytest.mark.parametrize(
    ("program", "broken", "code"),
    [
        ("compute", fault("launch_integers", "flip", 0), "compute_wrong"),
        ("compute", fault("launch_singles", "flip", 0), "compute_wrong"),
        ("compute", fault("launch_doubles", "flip", 0), "compute_wrong"),
        ("compute", fault("launch_exchange", "flip", 0), "compute_wrong"),
        ("matrix", fault("launch_product_bf16", "flip", 0), "matrix_wrong"),
        ("matrix", fault("launch_product_fp32", "flip", 0), "matrix_wrong"),
        ("burn", fault("launch_product_bf16", "flip 5", 0), "matrix_wrong"),
        ("device_bandwidth", fault("launch_copy", "flip", 0), "memory_wrong"),
        ("host_bandwidth", fault("cuMemcpyHtoDAsync_v2", "flip", 0), "pcie_wrong"),
        ("host_bandwidth", fault("cuMemcpyDtoHAsync_v2", "flip", 0), "pcie_wrong"),
        ("peer_bandwidth", fault("cuMemcpyPeerAsync", "flip", 0), "peer_wrong"),
        ("collective", fault("launch_add", "flip", 0), "collective_wrong"),
        ("collective", fault("cuMemcpyPeerAsync", "flip", 1), "collective_wrong"),
    ],
)
def test_one_wrong_bit_is_found(run: Run, program: str, broken: str, code: str) -> None:
    said = run(program, broken + TWO, quick=True, **BRIEF.get(program, {}))

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, code)
    assert said.end.words.startswith("cannot ")
    assert said.end.remedy


def test_memory_is_not_filled_more_often_than_proves_something(run: Run) -> None:
    said = run("memory", ONE, seconds=1000, rounds=2)

    assert said.end.words.endswith("held 12 patterns")


def test_a_worn_bit_of_memory_is_found_where_it_is(run: Run) -> None:
    said = run("memory", setting(1, "cuda_stuck", "2000001 3") + TWO, quick=True)

    assert said.end.code == "memory_wrong"
    assert gpu_uuid(1) in said.end.words
    assert "in the bits 0x00000800" in said.end.words


@pytest.mark.parametrize(
    ("program", "broken", "code"),
    [
        ("memory", fault("cuInit", "error 803"), "gpu_driver_mismatch"),
        ("memory", fault("cuInit", "error 100"), "gpu_not_visible"),
        ("memory", setting(0, "compute_mode", 2), "gpu_in_use"),
        ("memory", fault("cuInit", "error 999"), "gpu_driver_failed"),
        ("host_bandwidth", fault("cuMemHostAlloc", "error 2"), "host_out_of_memory"),
        ("host_bandwidth", fault("cuMemHostAlloc", "error 1"), "gpu_call_refused"),
        ("memory", fault("cuDevicePrimaryCtxRetain", "error 46"), "gpu_in_use"),
        ("memory", fault("cuDevicePrimaryCtxRetain", "error 802"), "gpu_fabric"),
        ("memory", fault("cuMemAlloc_v2", "error 2"), "gpu_out_of_memory"),
        ("compute", fault("cuModuleLoadDataEx", "error 221"), "gpu_compiler_missing"),
        ("compute", fault("cuLaunchKernel", "error 719"), "gpu_launch_failed"),
        ("compute", fault("launch_doubles", "error 214"), "gpu_ecc"),
        ("compute", setting(0, "lost_after", 40), "gpu_driver_failed"),
        ("compute", setting(0, "compute_capability", "3.5"), "gpu_too_old"),
        ("matrix", fault("cuEventQuery", "error 600"), "gpu_hung"),
        ("compute", fault("cuStreamQuery", "error 600"), "gpu_hung"),
        ("burn", fault("launch_digest", "error 700"), "gpu_launch_failed"),
    ],
)
def test_what_the_driver_refuses_has_its_code(run: Run, program: str, broken: str, code: str) -> None:
    said = run(program, broken + ONE, quick=True, deadline_s=0.2, **BRIEF.get(program, {}))

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, code)
    assert said.end.words.startswith("cannot ")
    assert said.end.remedy


@pytest.mark.parametrize(
    ("program", "text", "broken", "remedy"),
    [
        ("memory", ONE, setting(0, "compute_mode", 2), f"nvidia-smi -i {gpu_uuid(0)} -c 0"),
        ("memory", ONE, fault("cuInit", "error 999"), "nvidia-modprobe -u"),
        ("memory", ONE, fault("cuInit", "error 100"), "-mig 0"),
        ("host_bandwidth", ONE, fault("cuMemHostAlloc", "error 2"), "free -m"),
        ("peer_bandwidth", PEERS + TWO, fault("cuEventQuery", "error 600"), "turn IOMMU or ACS off"),
    ],
)
def test_the_remedy_is_of_this_very_case(run: Run, program: str, text: str, broken: str, remedy: str) -> None:
    assert remedy in run(program, broken + text, quick=True, deadline_s=0.2).end.remedy


def test_gpus_that_are_all_gone_are_told_by_name(run: Run) -> None:
    said = run("compute", ONE, gpus=["GPU-no-such"])

    assert (said.end.code, "GPU-no-such" in said.end.words) == ("gpu_not_visible", True)


@pytest.mark.parametrize("program", ["host_bandwidth", "peer_bandwidth"])
def test_over_a_slow_link_less_is_copied_at_once(run: Run, program: str) -> None:
    """So that a machine whose GPUs have one lane each is slow, and is not taken for one that hangs."""
    slow = setting(0, "cuda_link", 100) + setting(1, "cuda_link", 100)
    roomy = setting(0, "cuda_mb", 64) + setting(1, "cuda_mb", 64)

    said = run(program, slow + roomy + TWO, quick=True)

    assert said.end.outcome is Outcome.PASSED
    block = re.search(r"blocks of (\d+) KiB", said.end.words)
    assert block
    assert 4 << 10 <= int(block[1]) < 6 << 10, "five megabytes: a twentieth of a second"


def test_an_xid_ends_the_work_and_stands_in_the_kernel_s_log(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    broken = fault("launch_integers", "xid 31", 0) + f"system kmsg {log}\n"

    said = run("compute", broken + ONE, quick=True)

    assert said.end.code == "gpu_launch_failed"
    assert "NVRM: Xid (PCI:0000:01:00): 31" in log.read_text()


def test_an_older_driver_lacks_a_function(library: Path, tmp_path: Path) -> None:
    older = build_cuda(library, missing=["cuMemAlloc_v2", "cuDeviceGetUuid_v2"])
    profile = tmp_path / "profile"
    write(profile, ONE)

    said = gpu_programs.run("memory", older, profile)

    assert said.end.code == "gpu_symbol_missing"
    assert "cuMemAlloc_v2" in said.end.words


def test_without_cuda_the_work_says_so(run: Run, tmp_path: Path) -> None:
    said = gpu_programs.run("memory", tmp_path, tmp_path / "profile")

    assert (said.end.code, said.end.outcome) == ("cuda_missing", Outcome.FAILED)


def test_a_call_that_hangs_says_nothing_and_ends_with_its_parent(library: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    write(profile, fault("cuMemAlloc_v2", "hang") + ONE)
    child = shlex.join(gpu_programs.command("matrix", {}))
    environ = os.environ | environment(library, profile)
    with subprocess.Popen(["sh", "-c", f"{child} & wait"], env=environ, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert b"progress" in parent.stdout.readline()

        parent.kill()

        assert parent.stdout.read() == b"", "the pipe ends when the program does"


def test_only_the_gpus_that_are_named_are_used(run: Run) -> None:
    said = run("compute", TWO, quick=True, gpus=[gpu_uuid(1)])

    assert set(said.figures("compute_results")) == {gpu_uuid(1)}


def test_a_gpu_that_cuda_does_not_show_is_told(run: Run) -> None:
    said = run("compute", TWO, gpus=[gpu_uuid(1), "GPU-no-such"])

    assert said.end.code == "gpu_not_visible"
    assert "GPU-no-such" in said.end.words


def test_the_burn_tells_how_fast_it_goes_meanwhile(run: Run) -> None:
    said = run("burn", TWO, minutes=0.02)

    assert {one.gpu_uuid for one in said.samples()} == {gpu_uuid(0), gpu_uuid(1)}
    assert all(one.throughput for one in said.samples())
