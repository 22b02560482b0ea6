import dataclasses

import pytest

from kaalia.model.machine import Benchmarks, GpuDriver
from kaalia.wire import facts
from tests.support.builders import build_figure, build_speed
from tests.support.machines import machine_report

NAMES = {
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 4090 D": "RTX 4090D",
    "NVIDIA GeForce RTX 4070 Ti SUPER": "RTX 4070S Ti",
    "NVIDIA GeForce RTX 4080 SUPER": "RTX 4080S",
    "NVIDIA GeForce RTX 3080 Laptop GPU": "RTX 3080 laptop",
    "NVIDIA GeForce GTX 1660 SUPER": "GTX 1660 S",
    "GeForce GTX 1080 Ti": "GTX 1080 Ti",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000Ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000 S",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000 WS",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTX PRO 6000 Max-Q",
    "NVIDIA A100-SXM4-80GB": "A100 SXM4",
    "NVIDIA A100 80GB PCIe": "A100 PCIE",
    "NVIDIA A100-PCIE-40GB": "A100 PCIE",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIE",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA GH200 480GB": "GH200 SXM",
    "NVIDIA B200": "B200",
    "NVIDIA L40S": "L40S",
    "NVIDIA A10G": "A10g",
    "Tesla V100-SXM2-16GB": "Tesla V100",
    "Tesla T4": "Tesla T4",
    "Quadro RTX 8000": "Q RTX 8000",
    "Quadro P4000": "Quadro P4000",
    "NVIDIA TITAN RTX": "Titan RTX",
    "NVIDIA TITAN X (Pascal)": "Titan X",
    "Something Unknown 7": "Something Unknown 7",
}


@pytest.mark.parametrize(("product", "name"), NAMES.items())
def test_gpu_name_is_the_one_users_know(product: str, name: str) -> None:
    assert facts.gpu_name(product) == name
    assert facts.gpu_name(name) == name


def test_encodes_numbers_in_the_units_of_the_api() -> None:
    row = facts.encode(machine_report(gpus=2))

    assert row["gpu_name"] == "RTX 4090"
    assert row["gpu_ram"] == 24564
    assert row["cpu_ram"] == 256 * 1024
    assert row["compute_cap"] == 890
    assert row["driver_vers"] == 550054015
    assert row["cuda_max_good"] == 12.4
    assert row["has_avx"] == 1
    assert (row["inet_down"], row["inet_up"]) == (None, None), "nobody measured it"
    assert row["os_version"] == "22.04"
    assert row["ubuntu_version"] == "22.04"
    assert row["direct_port_count"] == 1000
    assert row["gpu_display_active"] is False


def test_a_simulated_driver_is_marked_and_the_plain_name_is_known() -> None:
    report = machine_report(driver=GpuDriver(version="550.54.15", cuda_version="12.4", simulated=True))

    name = facts.encode(report)["gpu_name"]

    assert name == "RTX 4090 (simulated)"
    assert facts.plain_gpu_name(name) == "RTX 4090"


def test_what_is_not_known_is_null() -> None:
    row = facts.encode(machine_report(gpus=0, disk=None))

    for field in ("gpu_name", "driver_version", "driver_vers", "cuda_max_good", "compute_cap", "disk_name", "pcie_bw"):
        assert row[field] is None


def test_gpus_that_differ_are_all_named_and_the_weakest_counts() -> None:
    report = machine_report(gpus=2)
    small = dataclasses.replace(
        report.gpus[1], name="NVIDIA GeForce RTX 3060", vram_mb=12288, compute_capability=(8, 6)
    )
    row = facts.encode(dataclasses.replace(report, gpus=(report.gpus[0], small)))

    assert row["gpu_name"] == "RTX 3060 + RTX 4090"
    assert row["gpu_ram"] == 12288
    assert row["compute_cap"] == 860


def test_a_measured_speed_is_told_and_one_of_no_line_is_a_fault() -> None:
    report = machine_report(gpus=1)
    network = dataclasses.replace(report.network, speed=build_speed())
    measured = dataclasses.replace(report, network=network)

    assert {name: facts.encode(measured)[name] for name in ("inet_down", "inet_up")} == {
        "inet_down": 940.0,
        "inet_up": 415.5,
    }
    assert facts.fault(measured) is None
    for mbps in (-1.0, 0.0, 2e6):
        lie = dataclasses.replace(network, speed=build_speed(up=build_figure(mbps)))
        assert "speed" in (facts.fault(dataclasses.replace(report, network=lie)) or "")


def test_figures_follow_from_models_and_of_an_unknown_one_there_is_none() -> None:
    report = machine_report(gpus=2, benchmarks=Benchmarks(disk_read_mbps=3100.5, pcie_gbps=24.1, cpu_ghz=3.1))
    known = facts.encode(report)
    unknown = facts.encode(machine_report(gpus=2, gpu_name="NVIDIA Something 7"))

    names = ("total_flops", "dlperf", "gpu_mem_bw", "bw_nvlink", "disk_bw", "pcie_bw", "cpu_ghz")
    assert [known[name] for name in names] == [165.2, 46.0, 1008.0, None, 3100.5, 24.1, 3.5]
    assert [unknown[name] for name in names[:4]] == [None] * 4
    told = dataclasses.replace(report.gpus[0], name="NVIDIA Something 7", cores=1000, sm_clock_max_mhz=2000)
    assert facts.encode(dataclasses.replace(report, gpus=(told,)))["total_flops"] == 4.0


def test_a_benchmark_that_is_no_number_of_this_world_is_a_fault() -> None:
    for lie in (-1.0, 0.0, 2e9):
        assert "measurement" in (facts.fault(machine_report(benchmarks=Benchmarks(disk_read_mbps=lie))) or "")
    assert facts.fault(machine_report(benchmarks=Benchmarks(disk_read_mbps=3100.5))) is None


@pytest.mark.parametrize(
    "text", ["bank.example", "-oProxyCommand=x", "", "0.0.0.0", "224.0.0.1", "fe80::1%a;b", "1.2.3"]
)
def test_what_is_no_address_of_a_machine_is_a_fault(text: str) -> None:
    report = machine_report(gpus=1)
    told = dataclasses.replace(report, network=dataclasses.replace(report.network, public_ip=text))
    routed = dataclasses.replace(report, network=dataclasses.replace(report.network, local_ips=("10.0.0.5", text)))

    assert "no address" in (facts.fault(told) or "")
    assert "no address" in (facts.fault(routed) or "")
    for fine in (None, "127.0.0.1", "2001:db8::7"):
        network = dataclasses.replace(report.network, public_ip=fine)
        assert facts.fault(dataclasses.replace(report, network=network)) is None
