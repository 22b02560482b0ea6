"""Every requirement of the data: met, missed by little, not known; formulas at the points that documents name."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from kaalia import config
from kaalia.contracts import requirement_facts, requirements
from kaalia.contracts.dockerflags import MAX_PORTS
from kaalia.contracts.requirement_facts import Facts
from kaalia.errors import ContractError
from kaalia.model.machine import Benchmarks, GpuDriver, ProvenPorts
from kaalia.model.selftest import Figure, Outcome, RequirementVerdict, StepName, StepResult
from kaalia.model.speed import Confidence, MeasuredSpeed
from kaalia.model.speed import Figure as Rate
from kaalia.units import GIB
from tests.support.clock import START
from tests.support.machines import machine_report

GOOD = Facts(
    gpus=2,
    models=1,
    vram_gib=24.0,
    vram_total_mib=49128,
    compute_capability=8.9,
    cuda=12.4,
    reliability=0.99,
    tcp_ports=200,
    udp_ports=200,
    down_mbps=900.0,
    up_mbps=900.0,
    pcie_gbps=20.0,
    lanes=16,
    gpu_tflops=82.6,
    memory_mib=131072,
    logical_cores=32,
    physical_cores=16,
    avx=1,
    disk_gb=1000,
    quota=1,
)
BAD: dict[str, dict[str, Any]] = {
    "gpu.count": {"gpus": 0},
    "gpu.same_type": {"models": 2},
    "gpu.ram": {"vram_gib": 7.0},
    "gpu.compute_capability": {"compute_capability": 3.5},
    "cuda.version": {"cuda": 11.7},
    "reliability": {"reliability": 0.90},
    "network.direct_ports": {"tcp_ports": 5},
    "network.direct_ports_udp": {"udp_ports": 5},
    "network.direct_ports.recommended_max": {"tcp_ports": 200},
    "network.download": {"down_mbps": 124.0},
    "network.upload": {"up_mbps": 124.0},
    "pcie.bandwidth": {"pcie_gbps": 2.85},
    "pcie.lanes": {"lanes": 8},
    "system.ram": {"memory_mib": 46671},
    "cpu.cores": {"logical_cores": 3},
    "cpu.physical_cores": {"physical_cores": 1},
    "cpu.avx": {"avx": 0},
    "disk.size": {"disk_gb": 255},
    "disk.quota": {"quota": 0},
}
"""Just what does not suffice on a machine with two RTX 4090."""


def found(facts: Facts, requirement: str, variant: str = requirements.DEFAULT) -> RequirementVerdict:
    return next(one for one in requirements.verdicts(facts, variant) if one.requirement == requirement)


def speed(down: float, up: float) -> MeasuredSpeed:
    def rate(mbps: float) -> Rate:
        return Rate(mbps, 1, 1.0, 0.0, 0.0, Confidence.HIGH, 1.0)

    return MeasuredSpeed(START, "https://market", "tcp", 4, 1, rate(down), rate(up))


def step(*figures: Figure) -> StepResult:
    return StepResult(StepName.HOST_BANDWIDTH, Outcome.PASSED, "measured", figures=figures)


def test_a_good_machine_meets_all_that_is_required() -> None:
    verdicts = requirements.verdicts(GOOD)

    assert requirements.unmet(verdicts) == ()
    assert {one.requirement for one in verdicts} == BAD.keys()
    assert all(one.source and one.required for one in verdicts)


@pytest.mark.parametrize("requirement", BAD)
def test_too_little_fails_this_requirement_and_says_what_to_do(requirement: str) -> None:
    verdict = found(replace(GOOD, **BAD[requirement]), requirement)

    assert verdict.outcome is Outcome.FAILED
    assert verdict.remedy
    assert verdict.actual != "not known"


@pytest.mark.parametrize("requirement", sorted(BAD.keys() - {"gpu.count", "gpu.same_type"}))
def test_what_is_not_known_fails_nothing_and_is_not_met(requirement: str) -> None:
    fact = next(one.fact for one in requirements.book() if one.id == requirement)
    unknown: dict[str, Any] = {fact: None}
    verdict = found(replace(GOOD, **unknown), requirement)

    assert (verdict.outcome, verdict.actual) == (Outcome.SKIPPED, "not known")
    assert verdict.words.endswith("not known")
    assert verdict.remedy
    assert bool(requirements.unmet([verdict])) is not verdict.is_advice


@pytest.mark.parametrize(
    ("gib", "mbps"), [(8, 100.0), (48, 125.0), (80, 208.33), (96, 250.0), (160, 416.67), (192, 500.0), (1000, 500.0)]
)
def test_bandwidth_grows_with_the_memory_of_the_gpus(gib: float, mbps: float) -> None:
    rule = next(one for one in requirements.book() if one.id == "network.download")

    assert requirements.required(rule, replace(GOOD, vram_total_mib=gib * 1024)) == pytest.approx(mbps, abs=0.01)


def test_memory_is_capped_for_the_largest_machines() -> None:
    rule = next(one for one in requirements.book() if one.id == "system.ram")

    assert requirements.required(rule, replace(GOOD, vram_total_mib=2_300_000)) == 2_000_000
    assert requirements.required(rule, GOOD) == pytest.approx(0.95 * 49128)


@pytest.mark.parametrize(
    ("requirement", "variant", "facts", "outcome"),
    [
        ("cuda.version", "docs", {"cuda": 11.8}, Outcome.FAILED),
        ("cuda.version", "client", {"cuda": 11.8}, Outcome.PASSED),
        ("network.direct_ports", "newest", {"tcp_ports": 9}, Outcome.FAILED),
        ("network.download", "newest", {"down_mbps": 499.0}, Outcome.FAILED),
        ("system.ram", "docs", {"memory_mib": 8192}, Outcome.PASSED),
        ("disk.size", "newest", {"disk_gb": 200}, Outcome.PASSED),
        ("cpu.physical_cores", "newest", {"physical_cores": 3}, Outcome.FAILED),
        ("reliability", "docs", {"reliability": 0.90}, Outcome.PASSED),
        ("pcie.lanes", "client", {"lanes": 16, "gpu_tflops": 10.0}, Outcome.PASSED),
    ],
)
def test_variants_are_what_other_documents_ask_for(
    requirement: str, variant: str, facts: dict[str, Any], outcome: Outcome
) -> None:
    assert found(replace(GOOD, **facts), requirement, variant).outcome is outcome


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match="cannot judge by the requirements 'hearsay'") as refused:
        requirements.verdicts(GOOD, "hearsay")
    assert "client, docs, newest" in refused.value.problem.remedy


def test_every_entry_of_the_data_can_be_read() -> None:
    for variant in requirements.variants():
        for one in requirements.book(variant):
            assert one.fact in {field.name for field in fields(Facts)}
            assert requirements.required(one, GOOD) is not None


def test_numbers_are_shown_with_bound_and_unit() -> None:
    assert (found(GOOD, "pcie.bandwidth").actual, found(GOOD, "pcie.bandwidth").required) == ("20 GB/s", "> 2.85 GB/s")
    assert found(GOOD, "network.direct_ports").required == ">= 6 ports"
    assert (found(GOOD, "cpu.avx").actual, found(GOOD, "cpu.avx").required) == ("yes", "yes")
    assert found(GOOD, "reliability").actual == "0.99"


def test_facts_of_a_report() -> None:
    report = machine_report(gpus=2, benchmarks=Benchmarks(pcie_gbps=12.5))
    network = replace(report.network, proven=ProvenPorts("203.0.113.7", 900, 12, START), speed=speed(640.04, 320.0))

    facts = requirement_facts.of(replace(report, network=network), 0.97, tflops=165.2)

    assert (facts.gpus, facts.models, facts.vram_total_mib) == (2, 1, 49128)
    assert (facts.compute_capability, facts.cuda, facts.reliability) == (8.9, 12.4, 0.97)
    assert (facts.tcp_ports, facts.udp_ports) == (900, 12)
    assert (facts.down_mbps, facts.up_mbps, facts.pcie_gbps) == (640.0, 320.0, 12.5)
    assert facts.lanes == 16
    assert facts.gpu_tflops == pytest.approx(82.6)
    assert (facts.memory_mib, facts.logical_cores, facts.physical_cores) == (256 * GIB // 2**20, 64, 32)
    assert (facts.avx, facts.disk_gb, facts.quota) == (1, 1200, 1)


def test_a_self_test_is_newer_than_the_report_and_of_a_simulated_gpu_nothing_is_measured() -> None:
    report = machine_report(gpus=2, benchmarks=Benchmarks(pcie_gbps=12.5))
    steps = [
        step(Figure("host_to_device_gbps", 24.0, "GB/s", "GPU-0"), Figure("host_to_device_gbps", 2.1, "GB/s", "GPU-1")),
        step(Figure("device_to_host_gbps", 22.0, "GB/s", "GPU-0")),
    ]
    measured = requirement_facts.least(steps)
    simulated = replace(report, driver=GpuDriver("550.54.15", "12.4", simulated=True), benchmarks=None)
    facts = requirement_facts.of(simulated, measured=measured)
    verdict = found(facts, "pcie.bandwidth")

    assert measured == {"host_to_device_gbps": 2.1, "device_to_host_gbps": 22.0}
    assert requirement_facts.of(report, measured=measured).pcie_gbps == 2.1
    assert facts.pcie_gbps is None
    assert (verdict.outcome, verdict.is_advice) == (Outcome.SKIPPED, True)
    assert not found(replace(facts, is_simulated=False), "pcie.bandwidth").is_advice


def test_what_the_report_does_not_tell_is_not_guessed() -> None:
    report = machine_report(gpus=0, disk=None, engine=None, driver=None)
    cpu = replace(report.cpu, has_avx=None, physical_cores=None)

    facts = requirement_facts.of(replace(report, cpu=cpu))

    assert facts == Facts(memory_mib=facts.memory_mib, logical_cores=64, gpus=0, models=0, vram_total_mib=0)


def test_arm_needs_no_avx_and_the_weakest_gpu_counts() -> None:
    report = machine_report(gpus=2)
    weak = replace(report.gpus[0], vram_mb=6144, compute_capability=(6, 1), pci_width_current=1)
    cpu = replace(report.cpu, architecture="arm64", has_avx=None)

    facts = requirement_facts.of(replace(report, gpus=(report.gpus[1], weak), cpu=cpu))

    assert (facts.models, facts.vram_gib, facts.compute_capability, facts.lanes, facts.avx) == (2, 6.0, 6.1, 1, 1)


def test_a_capability_that_is_not_told_of_one_gpu_is_not_known_of_the_machine() -> None:
    report = machine_report(gpus=2)
    silent = replace(report.gpus[0], compute_capability=None)

    assert requirement_facts.of(replace(report, gpus=(report.gpus[1], silent))).compute_capability is None


def test_one_number_of_ports_is_enough_and_no_page_tells_another() -> None:
    """3 are required and 64 enough, as many as an instance can have; what others advise stands beside."""
    book = {one.id: one for one in requirements.book()}
    required, enough = book["network.direct_ports"], book["network.direct_ports.recommended_max"]
    root = Path(__file__).parents[2]
    pages = [*root.glob("docs/*.md"), root / "README.md", root / "install.sh"]
    said = re.compile(r"(\d+) (?:(?:TCP |UDP )?ports? (?:per|for each|for every|a|x)|for each) GPU", re.IGNORECASE)
    numbers = {
        int(match[1])
        for page in pages
        for line in page.read_text().splitlines()
        if "`network.direct_ports" not in line  # the table of the data, with what other documents ask for
        for match in said.finditer(line)
    }

    assert enough.number == MAX_PORTS
    assert numbers <= {required.number, enough.number}
    assert enough.number in numbers
    first, last = map(int, config.Config().ports.range.split("-"))
    assert (last - first + 1) // MAX_PORTS == 12
