"""`kaalia report`: what the machine is. For people what the marketplace gets, for programs (`--json`) every field."""

import os
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient
from kaalia.errors import HostError
from kaalia.model.machine import Engine, Gpu, MachineReport
from kaalia.model.measurement import Bench, Measurement
from kaalia.units import format_bytes
from kaalia.wire import report as full
from kaalia.wire import report_schema
from kaalia.wire.local import MeasureWish

WAIT_S = 300.0


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: kaalia report --json | jq '.gpus[].name.value'; kaalia report --measure disk --measure cpu"
    )(report)


def report(
    measure: Annotated[
        list[Bench] | None, typer.Option("--measure", help="Measure this first; may be given more than once.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure though tenants run.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json, and ask nobody.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show what this machine is: GPUs, CPU, memory, disk, network, Docker, and what could not be read."""
    if schema:
        output.print_json(report_schema.schema())
        return
    client = output.connect(config, socket, dict(os.environ))
    if measure:
        _measure(client, MeasureWish(tuple(dict.fromkeys(measure)), force))
    document, details = client.report(), client.report_details()
    if as_json:
        output.print_json(full.encode(document, details.inventory, details.measurements))
    else:
        _print(document, output.console())
        _print_measured(document, details.measurements, output.console())


def _measure(client: LocalClient, wish: MeasureWish) -> None:
    """Order and wait until it is done. Raises HostError `measure_unfinished`."""
    client.order_measurement(wish)
    if follow(client.report_details, lambda one: bool(one.ordered), WAIT_S).ordered:
        raise HostError(
            "measure_unfinished",
            "cannot show new measurements: they have not ended",
            remedy="see the log of the daemon; ask again: kaalia report",
        )


def _print_measured(document: MachineReport, measurements: tuple[Measurement, ...], out: Console) -> None:
    if not measurements:
        return
    names = {gpu.uuid: f"GPU {gpu.index}" for gpu in document.gpus}
    out.print()
    out.print("[bold]Measured[/]")
    rows = ((f"  {one.name} {names.get(one.subject, one.subject)}".rstrip(), _measured(one)) for one in measurements)
    output.print_pairs(rows, out)


def _measured(one: Measurement) -> str:
    if one.value is None:
        return one.reason
    spread = f" ± {100 * one.spread:.0f} %" if one.spread is not None else ""
    return f"{one.value:,g} {one.unit}{spread}, {output.moment(one.measured_at)}{', gently' if one.gentle else ''}"


def _print(document: MachineReport, out: Console) -> None:
    output.print_pairs(_pairs(document), out)
    if document.gpus:
        out.print()
        simulated = document.driver is not None and document.driver.simulated
        columns = (">#", "GPU", ">VRAM", "PCI", ">Power", ">Temp", ">Load", "~UUID")
        output.print_table(columns, (_gpu_row(gpu, simulated) for gpu in document.gpus), out)
    if document.missing:
        out.print()
        out.print("[bold]Not read[/]")
        output.print_pairs(((f"  {each.field}", each.reason) for each in document.missing), out)


def _pairs(document: MachineReport) -> list[tuple[str, str]]:
    system, cpu, disk, network = document.system, document.cpu, document.disk, document.network
    driver = document.driver
    return [
        ("Machine", _join(system.hostname, system.os_name, f"kernel {system.kernel}", system.board)),
        (
            "CPU",
            _join(cpu.model, cpu.architecture, f"{cpu.physical_cores or '?'} cores", f"{cpu.logical_cores} threads"),
        ),
        (
            "Memory",
            f"{format_bytes(document.memory.total_bytes)}, {format_bytes(document.memory.available_bytes)} free",
        ),
        (
            "Disk",
            _join(
                disk.path,
                f"{format_bytes(disk.total_bytes)}, {format_bytes(disk.free_bytes)} free",
                disk.filesystem,
                disk.device,
                disk.model,
                f"volumes by {disk.volume_backend}" if disk.volume_backend else None,
            )
            if disk
            else "",
        ),
        (
            "Network",
            _join(
                f"public {network.public_ip or 'unknown'}",
                f"ports {network.port_range.first}-{network.port_range.last}",
                f"{network.proven.tcp} TCP and {network.proven.udp} UDP proven" if network.proven else None,
                f"{network.speed.down.mbps:,.0f} Mb/s down, {network.speed.up.mbps:,.0f} up" if network.speed else None,
                *network.local_ips,
            ),
        ),
        ("Docker", _engine(document.engine)),
        (
            "Driver",
            _join(driver.version, f"CUDA up to {driver.cuda_version or '?'}", "(simulated)" if driver.simulated else "")
            if driver
            else "",
        ),
        ("Collected", output.moment(document.collected_at)),
    ]


def _engine(engine: Engine | None) -> str:
    if engine is None:
        return "not answering"
    return _join(
        engine.version,
        engine.storage_driver,
        f"cgroup v{engine.cgroup_version}",
        f"GPUs by {engine.gpu_mode}",
        "live-restore" if engine.live_restore else "no live-restore",
        "disk size enforced" if engine.enforces_disk_size else "disk size not enforced",
    )


def _gpu_row(gpu: Gpu, simulated: bool) -> tuple[str, ...]:
    return (
        str(gpu.index),
        f"{gpu.name} (simulated)" if simulated else gpu.name,
        f"{gpu.vram_mb / 1024:.1f} GiB",
        gpu.pci_address or "-",
        f"{gpu.power_limit_w:.0f} W" if gpu.power_limit_w is not None else "-",
        f"{gpu.temperature_c} °C" if gpu.temperature_c is not None else "-",
        f"{gpu.utilization_percent} %" if gpu.utilization_percent is not None else "-",
        gpu.uuid,
    )


def _join(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
