"""`kaalia contracts ID` shows what the contract's GPUs used."""

import json
from datetime import timedelta

from kaalia.store import energy
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.support.builders import build_gpus
from tests.support.clock import START


def test_kilowatt_hours_of_a_contract(run: Run, rented: Daemon) -> None:
    uuid = build_gpus(1)[0].uuid

    def use(tx: Transaction) -> None:
        energy.count(tx, {uuid: 1_000}, START - timedelta(hours=2))
        energy.count(tx, {uuid: 1_801_000}, START - timedelta(hours=1))
        energy.count(tx, {uuid: 900_001_000}, START)

    rented.write(use)
    shown = run("contracts", "51", "--socket", str(rented.socket)).out
    other = run("contracts", "52", "--socket", str(rented.socket)).out

    assert "0.250 kWh by its GPUs" in shown
    assert "Energy" not in other
    assert json.loads(run("contracts", "51", "--json", "--socket", str(rented.socket)).out)["energy_j"] == 900_000
