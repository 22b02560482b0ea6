"""Machines that meet all requirements, and self-tests as they tell them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from kaalia.model.machine import Benchmarks, MachineReport, ProvenPorts
from kaalia.model.selftest import Figure, Outcome, RunResult, SelfTestOrder, SelfTestRun, StepName, StepResult
from kaalia.model.speed import Confidence, MeasuredSpeed
from kaalia.model.speed import Figure as Rate
from kaalia.wire import document, selftest
from tests.support.clock import START
from tests.support.machines import machine_report


def sound_report(gpus: int = 2, mbps: float = 900.0, tcp: int = 1000, **changes: Any) -> MachineReport:
    """Its ports were probed, its speed and its PCIe links measured."""
    report = machine_report(gpus, benchmarks=Benchmarks(pcie_gbps=20.0), **changes)
    rate = Rate(mbps, 10**9, 10.0, 0.01, 0.01, Confidence.HIGH, 30.0)
    network = replace(
        report.network,
        proven=ProvenPorts("203.0.113.7", tcp, tcp, START),
        speed=MeasuredSpeed(START, "https://market", "tcp", 4, 1, rate, rate),
    )
    return replace(report, network=network)


def whole_run(at: datetime, run_id: int = 1, failed: str = "", task_id: str = "", **changes: Any) -> SelfTestRun:
    """Of all steps, ten minutes long, ended at `at`, with figures of two GPUs."""
    steps = tuple(
        StepResult(
            step,
            Outcome.FAILED if step == failed else Outcome.PASSED,
            f"{step} was looked at",
            code=f"{step}_wrong" if step == failed else "",
            took_s=30.0,
            figures=_figures(step),
        )
        for step in StepName
    )
    made = SelfTestRun(
        run_id=run_id,
        order=SelfTestOrder(at - timedelta(minutes=11), task_id=task_id),
        began_at=at - timedelta(minutes=10),
        ended_at=at,
        result=RunResult.FAILED if failed else RunResult.PASSED,
        steps=steps,
    )
    return replace(made, **changes)


def notice(run: SelfTestRun, report: MachineReport | None = None) -> str:
    """As it stands in the outbox."""
    return document.encode(selftest.notice(run, report or sound_report()))


def _figures(step: StepName) -> tuple[Figure, ...]:
    match step:
        case StepName.DEVICE_BANDWIDTH:
            return (
                Figure("device_bandwidth_gbps", 920.0, "GB/s", "GPU-00000000", 0.01),
                Figure("device_bandwidth_gbps", 816.0, "GB/s", "GPU-00000001", 0.01),
            )
        case StepName.MATRIX:
            return (Figure("matrix_tflops", 150.5, "TFLOPS", "GPU-00000000"),)
        case StepName.DISK:
            return (Figure("disk_read_mbps", 3000.0, "MB/s"),)
        case _:
            return ()
