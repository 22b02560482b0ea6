"""`kaalia marketplace relay ...`: which relays the marketplace sends renters by."""

from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.cli.market_data import DEFAULT_DATA, DataDir, at_the_database
from kaalia.contracts import relay as rules
from kaalia.marketplace import relay_list, run
from kaalia.marketplace.relay_list import KnownRelay

Name = Annotated[str, typer.Argument(metavar="NAME", help="The relay's name.")]

relay = typer.Typer(no_args_is_help=True, help="Relays, for machines that nobody reaches.")


@relay.command()
def add(
    name: Name,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where machines and renters reach it.")],
    ports: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Ports that it gives to machines.")],
    data: DataDir = DEFAULT_DATA,
    as_json: output.AsJson = False,
) -> None:
    """Make a relay known and show its token, once. Then run `kaalia relay serve` there."""
    where = run.parse_address(address)
    token = at_the_database(
        data, lambda engine: relay_list.add(engine, name, where.host, where.port, rules.parse_ports(ports))
    )
    if as_json:
        output.print_json({"name": name, "token": token})
    else:
        typer.echo(token)


@relay.command("list")
def show(data: DataDir = DEFAULT_DATA, as_json: output.AsJson = False) -> None:
    """All relays, and when each was heard of."""
    rows = [_row(one) for one in at_the_database(data, relay_list.known)]
    if as_json:
        output.print_json(rows)
        return
    columns = ("Name", "Address", "Ports", "Machines", "Contracts", "Heard of")
    shown = [[str(row[key] or "never") for key in ("name", "address", "ports")] + _use(row) for row in rows]
    output.print_table(columns, shown, output.console())


@relay.command()
def forget_key(name: Name, data: DataDir = DEFAULT_DATA) -> None:
    """Take the next host key that the relay brings: for one whose own was lost."""
    at_the_database(data, lambda engine: relay_list.forget_key(engine, name))


@relay.command()
def remove(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Even if renters are cut off.")] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Forget a relay. Its machines close their connections."""
    at_the_database(data, lambda engine: relay_list.remove(engine, name, force=force))


def _row(one: KnownRelay) -> dict[str, object]:
    return {
        "name": one.name,
        "address": f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}",
        "ports": f"{one.ports.first}-{one.ports.last}",
        "host_key": one.host_key,
        "seen_at": None if one.seen_at is None else one.seen_at.isoformat(timespec="seconds"),
        "machines": one.machines,
        "contracts": one.contracts,
    }


def _use(row: dict[str, object]) -> list[str]:
    return [str(row["machines"]), str(row["contracts"]), str(row["seen_at"] or "never")]
