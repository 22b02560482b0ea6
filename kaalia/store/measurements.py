"""The newest measurements of this machine by itself, and which of them the owner ordered."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaalia.clock import from_epoch
from kaalia.model.machine import Benchmarks
from kaalia.model.measurement import Bench, Measurement
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Order:
    """`purpose`: of the test that wants it as one of its steps, and not without the rest; empty: the owner does."""

    bench: Bench
    ordered_at: datetime
    force: bool = False
    purpose: str = ""


def put(tx: Transaction, found: Iterable[Measurement]) -> None:
    rows = [(one.name, one.subject, _encoded(one)) for one in found]
    tx.executemany("INSERT OR REPLACE INTO measurements (name, subject, document) VALUES (?, ?, ?)", rows)


def every(tx: Transaction) -> tuple[Measurement, ...]:
    rows = tx.execute("SELECT document FROM measurements ORDER BY name, subject").fetchall()
    return tuple(_decoded(row["document"]) for row in rows)


def order(tx: Transaction, wanted: Order) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO measurement_orders (bench, ordered_at, force, purpose) VALUES (?, ?, ?, ?)",
        (wanted.bench, wanted.ordered_at.timestamp(), wanted.force, wanted.purpose),
    )


def next_order(tx: Transaction) -> Order | None:
    row = tx.execute("SELECT * FROM measurement_orders ORDER BY ordered_at, bench LIMIT 1").fetchone()
    return None if row is None else _order(row)


def get_order(tx: Transaction, bench: Bench) -> Order | None:
    row = tx.execute("SELECT * FROM measurement_orders WHERE bench = ?", (bench,)).fetchone()
    return None if row is None else _order(row)


def ordered(tx: Transaction) -> tuple[Bench, ...]:
    return tuple(Bench(row["bench"]) for row in tx.execute("SELECT bench FROM measurement_orders ORDER BY bench"))


def withdraw(tx: Transaction) -> None:
    """What tests wanted is wanted no longer; one that is under way is broken off by who does it."""
    tx.execute("DELETE FROM measurement_orders WHERE purpose != ''")


def done(tx: Transaction, bench: Bench) -> None:
    tx.execute("DELETE FROM measurement_orders WHERE bench = ?", (bench,))


def benchmarks(tx: Transaction, gpus: Iterable[str]) -> Benchmarks | None:
    """What offers show. `gpus`: UUIDs of those that are here now; one that was not measured leaves PCIe unknown."""
    found = {(one.name, one.subject): one.value for one in every(tx)}
    links = [found.get((name, uuid)) for uuid in gpus for name in ("pcie_down_gbps", "pcie_up_gbps")]
    known = [value for value in links if value is not None]
    told = Benchmarks(
        disk_read_mbps=found.get(("disk_read_mbps", "")),
        disk_write_mbps=found.get(("disk_write_mbps", "")),
        pcie_gbps=min(known) if known and len(known) == len(links) else None,
        cpu_points=found.get(("cpu_points", "")),
        cpu_ghz=found.get(("cpu_sustained_ghz", "")),
    )
    return None if told == Benchmarks() else told


def _order(row: Any) -> Order:
    return Order(Bench(row["bench"]), from_epoch(row["ordered_at"]), bool(row["force"]), row["purpose"])


def _encoded(one: Measurement) -> str:
    return json.dumps(dataclasses.asdict(one) | {"measured_at": one.measured_at.isoformat()})


def _decoded(text: str) -> Measurement:
    said = json.loads(text)
    return Measurement(**said | {"measured_at": datetime.fromisoformat(said["measured_at"])})
