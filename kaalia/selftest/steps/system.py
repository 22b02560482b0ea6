"""System and driver: what the machine's report and its open conditions say before anything is loaded."""

from kaalia.contracts import fitness
from kaalia.contracts.slicing import all_known, by_model
from kaalia.model.health import OpenCondition
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import Figure, Outcome, StepName, StepResult
from kaalia.selftest.step import Here, failed
from kaalia.store import canary, conditions
from kaalia.units import GIB


async def run(here: Here) -> StepResult:
    """Failed by the first thing that is wrong; all of them are in its words."""
    found = await here.database.read(conditions.all_open)
    return judge(here.report, found)


def judge(report: MachineReport, found: tuple[OpenCondition, ...]) -> StepResult:
    """`found`: what is wrong now. What the machine's own container says is left to the steps that run it anew."""
    others = [one for one in found if one.source != canary.SOURCE]
    faults = {fault.code for fault in fitness.faults(others)}
    told = [one.condition.problem for one in others if one.condition.problem.code in faults]
    if told:
        words = "; ".join(dict.fromkeys(problem.message for problem in told))
        return failed(StepName.SYSTEM, told[0].code, words, told[0].remedy or "see: kaalia doctor")
    if not all_known(report):
        missing = "; ".join(f"{gap.field}: {gap.reason}" for gap in report.missing if gap.field.startswith("gpus"))
        return failed(StepName.SYSTEM, "selftest_gpus_unread", f"cannot read all GPUs: {missing}", "see: nvidia-smi")
    if report.gpus and report.driver is None:
        return failed(
            StepName.SYSTEM,
            "selftest_no_driver",
            "cannot tell the NVIDIA driver of this machine",
            "install it, then: kaalia nvml",
        )
    if report.engine is None:
        return failed(StepName.SYSTEM, "selftest_no_engine", "cannot reach Docker", "start it: systemctl start docker")
    if report.gpus and report.engine.gpu_mode == "none":
        return failed(
            StepName.SYSTEM,
            "selftest_no_toolkit",
            "cannot give GPUs to containers: Docker knows no way to",
            "install the NVIDIA Container Toolkit: nvidia-ctk runtime configure --runtime=docker; restart Docker",
        )
    return StepResult(StepName.SYSTEM, Outcome.PASSED, _words(report), figures=_figures(report))


def _words(report: MachineReport) -> str:
    models = ", ".join(f"{len(gpus)}x {name}" for name, gpus in by_model(report.gpus).items()) or "no GPU"
    driver = f"driver {report.driver.version}" if report.driver else "no driver"
    engine = f"Docker {report.engine.version}" if report.engine else "no Docker"
    return f"{models}, {driver}, {engine}"


def _figures(report: MachineReport) -> tuple[Figure, ...]:
    cores = report.cpu.physical_cores
    machine = (
        Figure("gpus", len(report.gpus), "GPUs"),
        Figure("ram_gib", round(report.memory.total_bytes / GIB, 1), "GiB"),
        *(() if cores is None else (Figure("physical_cores", cores, "cores"),)),
    )
    free = tuple(
        Figure("vram_free_percent", round(100 * (1 - gpu.vram_used_mb / gpu.vram_mb), 1), "%", gpu.uuid)
        for gpu in report.gpus
        if gpu.vram_used_mb is not None and gpu.vram_mb
    )
    return machine + free
