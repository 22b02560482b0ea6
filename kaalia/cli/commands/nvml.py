"""`kaalia nvml`, known to hosts as test_nvml.py: asks the NVIDIA driver as the daemon does, and shows what it says.

A program of its own, which needs no daemon. Exit codes: 0 all could be read, 1 something could not, 2 no driver.
"""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.config import load
from kaalia.host.nvml import NvmlProbe, NvmlReading
from kaalia.model.gpu_health import NvmlState
from kaalia.model.machine import Gpu

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_COLUMNS = (">#", "GPU", ">VRAM", "PCI", "Link", ">Power", ">Temp", ">Load", "~UUID")


@app.command(epilog="Examples: kaalia nvml; kaalia nvml --json | jq '.gpus[].temperature_c'")
def nvml(
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.1, max=300, help="Instead of nvml.deadline_s.")
    ] = None,
    config: output.ConfigFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Ask the NVIDIA driver, in a process that a hanging driver cannot keep, and show what it says of each GPU."""
    deadline_s = deadline or _configured_s(config)
    reading = asyncio.run(NvmlProbe(deadline_s=deadline_s).read())
    if as_json:
        # Whose processes use a GPU is a renter's business.
        output.print_json(replace(reading, processes=()))
    else:
        _print(reading, output.console())
    raise typer.Exit(_exit_code(reading))


def _configured_s(config: Path | None) -> float:
    return load(config, os.environ).nvml.deadline_s


def _exit_code(reading: NvmlReading) -> int:
    if reading.state is NvmlState.NO_DRIVER:
        return output.COULD_NOT_RUN
    is_whole = reading.state is NvmlState.OK and reading.driver is not None and reading.gpus
    lost = any(gap.field.count(".") == 1 and gap.field.startswith("gpus.") for gap in reading.missing)
    return output.OK if is_whole and not lost else output.REFUSED


def _print(reading: NvmlReading, out: Console) -> None:
    if reading.driver is not None:
        mark = " (simulated)" if reading.driver.simulated else ""
        out.print(f"Driver {reading.driver.version}, CUDA up to {reading.driver.cuda_version or '?'}{mark}")
    if reading.state is not NvmlState.OK:
        words = {NvmlState.NO_DRIVER: "no NVIDIA driver", NvmlState.HUNG: "the driver hangs"}
        out.print(
            f"[bold red]{words.get(reading.state, 'the driver fails')}[/]: {escape(reading.reason)}", soft_wrap=True
        )
        return
    if reading.gpus:
        output.print_table(_COLUMNS, (_row(gpu) for gpu in reading.gpus), out)
    else:
        out.print("The driver shows no GPU.")
    for gap in reading.missing:
        out.print(f"[dim]not read: {escape(gap.field)}: {escape(gap.reason)}[/]", soft_wrap=True)


def _row(gpu: Gpu) -> tuple[str, ...]:
    return (
        str(gpu.index),
        gpu.name,
        f"{gpu.vram_mb / 1024:.1f} GiB",
        gpu.pci_address or "-",
        f"{_or_dash(gpu.pci_gen_current, '{}')}x{_or_dash(gpu.pci_width_current, '{}')}",
        f"{_or_dash(gpu.power_draw_w, '{:.0f}')}/{_or_dash(gpu.power_limit_w, '{:.0f} W')}",
        _or_dash(gpu.temperature_c, "{} °C"),
        _or_dash(gpu.utilization_percent, "{} %"),
        gpu.uuid,
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def main() -> int:
    return output.run(app, sys.argv[1:], "kaalia nvml")


if __name__ == "__main__":
    sys.exit(main())
