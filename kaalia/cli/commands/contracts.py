"""`kaalia contracts [ID]`: what is rented on this machine."""

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.contracts.contract import ContractKind, Desired
from kaalia.contracts.energy import JOULES_PER_KWH
from kaalia.model.workload import WorkloadState
from kaalia.units import GB, format_bytes
from kaalia.wire.local import ContractView, TrafficView

_KINDS = {
    ContractKind.ON_DEMAND: "on-demand",
    ContractKind.RESERVED: "reserved",
    ContractKind.INTERRUPTIBLE: "bid",
    ContractKind.DEFAULT_JOB: "default job",
    ContractKind.SELFTEST: "self-test",
}
_ON_ITS_WAY = (WorkloadState.RUNNING, WorkloadState.STARTING, WorkloadState.CREATING)
"""Their messages tell no more than the state."""


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia contracts; kaalia contracts 51; kaalia contracts --json")(contracts)


def contracts(
    contract_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="One contract in full.")] = None,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show the contracts of this machine and how their workloads are doing."""
    client = output.connect(config, socket, dict(os.environ))
    document = client.contracts() if contract_id is None else client.contract(contract_id)
    out = output.console()
    if as_json:
        output.print_json(document)
    elif isinstance(document, ContractView):
        _print_one(document, out)
    elif document:
        _print_all(document, out)
    else:
        out.print("No contracts.")


def _print_all(views: tuple[ContractView, ...], out: Console) -> None:
    columns = (">ID", "Kind", "State", "~Image", ">GPUs", ">Ports", ">Disk", ">Net Mbit/s", ">$/h", "Ends")
    rows = (
        (
            str(view.contract_id),
            _KINDS[view.kind],
            view.state.value,
            view.image,
            str(view.gpu_count),
            str(len(view.ports)),
            format_bytes(view.disk_bytes),
            _rate(view.traffic),
            f"{view.price_usd_per_hour:.4f}",
            output.moment(view.end_at) if view.end_at else "open",
        )
        for view in views
    )
    output.print_table(columns, rows, out)
    for view in views:
        if view.problem:
            out.print(f"\ncontract {view.contract_id}:")
            output.print_problem(view.problem, out)
        elif view.desired is Desired.RUNNING and view.state not in _ON_ITS_WAY and view.status_msg:
            out.print(f"\ncontract {view.contract_id}: {escape(view.status_msg)}", soft_wrap=True)


def _rate(traffic: TrafficView | None) -> str:
    """Megabits per second to the internet and from it."""
    if traffic is None or traffic.rate is None:
        return ""
    up, down = traffic.rate.up * 8 / 10**6, traffic.rate.down * 8 / 10**6
    return f"{up:.1f}/{down:.1f}"


def _internet(traffic: TrafficView | None) -> str:
    if traffic is None:
        return ""
    total = f"{traffic.total.up / GB:.3f} GB up, {traffic.total.down / GB:.3f} GB down"
    return f"{total}, now {rate} Mbit/s" if (rate := _rate(traffic)) else total


def _print_one(view: ContractView, out: Console) -> None:
    ports = ", ".join(f"{port.host_port}->{port.container_port}/{port.protocol}" for port in view.ports)
    output.print_pairs(
        [
            ("Contract", f"{view.contract_id}, generation {view.generation}, {_KINDS[view.kind]}"),
            ("State", f"{view.state} (the renter wants it {view.desired})"),
            ("Message", view.status_msg),
            ("Image", f"{view.image}, launched as {view.launch_mode}"),
            ("GPUs", ", ".join(view.gpu_uuids) or str(view.gpu_count)),
            ("Disk", format_bytes(view.disk_bytes)),
            ("Ports", ports),
            ("Internet", _internet(view.traffic)),
            ("Energy", "" if view.energy_j is None else f"{view.energy_j / JOULES_PER_KWH:.3f} kWh by its GPUs"),
            ("Variables", ", ".join(view.env_names)),
            ("PUBLIC_IPADDR", view.public_ipaddr or ""),
            ("Price", f"$ {view.price_usd_per_hour} per hour, without storage"),
            ("Container", (view.container_id or "")[:12]),
            ("Agreed", output.moment(view.start_at)),
            ("Ends", output.moment(view.end_at) if view.end_at else "open"),
            ("Started", output.moment(view.started_at) if view.started_at else ""),
            ("Finished", output.moment(view.finished_at) if view.finished_at else ""),
            ("Exit code", "" if view.exit_code is None else str(view.exit_code)),
            ("Missing since", output.moment(view.missing_since) if view.missing_since else ""),
        ],
        out,
    )
    if view.problem:
        out.print()
        output.print_problem(view.problem, out)
