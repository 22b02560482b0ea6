"""`kaalia disk`: what a person sees who asks before anything was measured."""

import json
import threading
from dataclasses import replace

import pytest

from kaalia.cli.commands import disk as command
from kaalia.model.volume import VolumeBackend
from kaalia.store import disk
from kaalia.wire.local import DiskLedger, DiskOrder
from tests.cli.conftest import Daemon, Run
from tests.support.clock import START
from tests.support.waiting import wait_until

LEDGER = DiskLedger(START, 1000, 400, VolumeBackend.LOOP, "/v", True, ())


def test_the_first_measurement_is_waited_for(run: Run, rented: Daemon) -> None:
    def measure() -> None:
        wait_until("the order", lambda: DiskOrder.MEASURE in rented.read(disk.orders), 10)
        rented.write(lambda tx: disk.put_ledger(tx, LEDGER))

    daemon = threading.Thread(target=measure)
    daemon.start()
    shown = run("disk", "--json", "--socket", str(rented.socket))
    daemon.join()

    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["free_bytes"] == 400


def test_an_old_measurement_is_shown_when_no_newer_one_comes(
    run: Run, rented: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "WAIT_S", 0.3)
    missing = run("disk", "--json", "--socket", str(rented.socket))
    rented.write(lambda tx: disk.put_ledger(tx, replace(LEDGER, free_bytes=7)))
    shown = run("disk", "--json", "--socket", str(rented.socket))

    assert missing.code == 1
    assert "cannot show the disk: it was not measured yet" in missing.err
    assert json.loads(shown.out)["free_bytes"] == 7
