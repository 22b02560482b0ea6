"""By which relays contracts are reached, the connections that may be up, and the machine's key for them."""

from collections.abc import Iterable

from kaalia.model.relay import RENTERS_ADDRESS, LocalForward, OpenTunnel, RelayLink
from kaalia.model.workload import Protocol
from kaalia.store import workloads
from kaalia.store.database import Transaction
from kaalia.wire import document

SOURCE = "relay"
"""Of conditions."""


def put_links(tx: Transaction, links: Iterable[RelayLink]) -> None:
    """All there are. Written by `sync` only."""
    tx.execute("DELETE FROM relay_links")
    for link in links:
        row = (link.name, document.encode(link))
        tx.execute("INSERT INTO relay_links (name, document) VALUES (?, ?)", row)


def links(tx: Transaction) -> tuple[RelayLink, ...]:
    rows = tx.execute("SELECT document FROM relay_links ORDER BY name").fetchall()
    return tuple(document.decode(RelayLink, row["document"]) for row in rows)


def wanted(tx: Transaction) -> dict[RelayLink, frozenset[LocalForward]]:
    """What should stand: forwards to the ports that contracts' workloads hold on this machine."""
    held = {
        (contract_id, binding.container_port): binding.host_port
        for contract_id, status in workloads.all_workloads(tx).items()
        for binding in status.ports
        if binding.protocol is Protocol.TCP
    }
    found = {}
    for link in links(tx):
        places = ((one.relay_port, held.get((one.contract_id, one.container_port))) for one in link.forwards)
        found[link] = frozenset(LocalForward(port, local, RENTERS_ADDRESS) for port, local in places if local)
    return found


def put_tunnel(tx: Transaction, tunnel: OpenTunnel) -> None:
    row = (tunnel.name, document.encode(tunnel))
    tx.execute("INSERT OR REPLACE INTO relay_tunnels (name, document) VALUES (?, ?)", row)


def forget_tunnel(tx: Transaction, name: str) -> None:
    tx.execute("DELETE FROM relay_tunnels WHERE name = ?", (name,))


def tunnels(tx: Transaction) -> dict[str, OpenTunnel]:
    rows = tx.execute("SELECT document FROM relay_tunnels").fetchall()
    found = (document.decode(OpenTunnel, row["document"]) for row in rows)
    return {tunnel.name: tunnel for tunnel in found}


def put_key(tx: Transaction, public_key: str) -> None:
    tx.execute("INSERT OR REPLACE INTO relay_key (only_row, public_key) VALUES (1, ?)", (public_key,))


def get_key(tx: Transaction) -> str | None:
    row = tx.execute("SELECT public_key FROM relay_key").fetchone()
    return None if row is None else str(row["public_key"])
