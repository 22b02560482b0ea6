"""Both sides count the same, to the microsecond, and count what Docker says, whatever is killed.

Tenants are stopped, started, rebooted and killed, volumes rented and deleted at random moments, while the daemon,
dockerd and the marketplace are killed and come back. A watcher beside kaalia writes down each run of each container
from Docker's own StartedAt and FinishedAt, and when each volume's data were on the disk. In the end the machine's
journal, the marketplace's charges and what the watcher saw must be the same.
"""

import json
import random
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from kaalia.contracts import metering
from kaalia.errors import KaaliaError
from kaalia.model.metering import Interval, Meter
from kaalia.store import journal
from kaalia.store.database import Transaction
from tests.proofs.report import Report, Say
from tests.support.docker_engine import PrivateDocker
from tests.support.engine_api import EngineApi
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

ROUNDS = 16
TENANTS = 3
VOLUMES_MAX = 3
"""At a time, of 1 GB."""
VOLUME_USD_PER_GB_MONTH = "0.2"
LOOK_S = 0.1
EXACT_S = 0.001
"""Docker's nanoseconds are cut to microseconds."""
NEAR_S = 1.0
"""A volume is seen at the watcher's next look, which may be late on a busy machine."""
FAULTS = ("daemon", "dockerd", "marketplace", "daemon and marketplace", "nothing")
DEEDS = ("stop", "reboot", "die", "nothing")
"""What rests is started instead."""


class Watcher:
    """Runs of containers as Docker itself tells them: (id, StartedAt) -> FinishedAt, None while it runs.

    `volumes`: when the whole data of a volume were seen first, by its number.
    """

    def __init__(self, engine: EngineApi, volume_folder: Path) -> None:
        self._engine = engine
        self._volume_folder = volume_folder
        self.volumes: dict[int, datetime] = {}
        self._names: set[str] = set()
        self.runs: dict[str, dict[datetime, datetime | None]] = defaultdict(dict)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def follow(self, instance_id: int) -> None:
        self._names.add(f"C.{instance_id}")

    def look(self) -> None:
        for name in tuple(self._names):
            try:
                state = self._engine.inspect(name)["State"]
            except (OSError, KaaliaError, RuntimeError, KeyError, ValueError):
                continue
            started, finished = _time(state["StartedAt"]), _time(state["FinishedAt"])
            runs = self.runs[name]
            if finished is not None:
                for begun in [at for at, end in runs.items() if end is None and at <= finished]:
                    runs[begun] = finished
            if started is not None and started not in runs:
                runs[started] = None if state["Running"] else finished

    def look_for_volumes(self) -> None:
        for file in self._volume_folder.glob("V.*.key"):
            number = int(file.name.split(".")[1])
            self.volumes.setdefault(number, datetime.now(UTC))

    def _watch(self) -> None:
        while not self._ends.wait(LOOK_S):
            self.look_for_volumes()
            self.look()


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` faults (default 16)."""
    report = Report(say)
    chance = random.Random(seed)
    with scene("4xRTX_4090", extra_config={"intervals": {"resync_s": 5}}) as (stack, image):
        terms = ("--price_gpu", "0.4", "-v", str(VOLUMES_MAX + 1), "-z", VOLUME_USD_PER_GB_MONTH)
        stack.host.json("list", "machine", str(stack.machine_id), *terms)
        began = datetime.now(UTC)
        with Watcher(stack.engine, volume_folder(stack)) as watcher:
            volumes = [rent_volume(stack)]
            tenants = [rent(stack, image) for _ in range(TENANTS)]
            for tenant in tenants:
                watcher.follow(tenant)
            for number in range(rounds or ROUNDS):
                befall(stack, tenants, chance, report, number)
                if chance.random() < 0.5:
                    change_volumes(stack, volumes, chance, report)
            leave(stack, tenants, watcher, report)
        compare(stack, tenants, watcher, report)
        compare_volumes(stack, volumes, watcher, report)
        compare_money(stack, began, report)
    return report


def rent(stack: Stack, image: str) -> int:
    offer = stack.rentable_offer(1) or 0
    instance_id = stack.rent(offer, image=image, disk=1, runtype="args", args=["sleep", "99999"])
    stack.wait_status(instance_id, "running")
    return instance_id


def volume_folder(stack: Stack) -> Path:
    """Once the daemon has measured the disk."""

    def told() -> str | None:
        done = stack.kaalia("disk", "--socket", str(stack.socket), "--json")
        return json.loads(done.stdout)["volume_folder"] if done.returncode == 0 else None

    return Path(wait_until("the folder of volumes", told, 60))


def rent_volume(stack: Stack) -> int:
    _, body = stack.renter_api.call("POST", "/api/v0/volumes/search/", {"machine_id": {"eq": stack.machine_id}})
    # A repeated request within a minute is the same one: the size tells it from that before.
    size = 1 + time.monotonic() % 1 / 1000
    status, reply = stack.renter_api.call("PUT", "/api/v0/volumes/", {"id": body["offers"][0]["id"], "size": size})
    if status != 200:
        raise RuntimeError(f"a volume was refused: {status} {reply}")
    return int(reply["volume_id"])


def change_volumes(stack: Stack, volumes: list[int], chance: random.Random, report: Report) -> None:
    """A renter deletes a volume, or rents another one; the daemon may be on its way back."""
    live = live_volumes(stack)
    offers = stack.renter_api.call("POST", "/api/v0/volumes/search/", {"machine_id": {"eq": stack.machine_id}})[1]
    if live and (len(live) == VOLUMES_MAX or not offers["offers"] or chance.random() < 0.5):
        stack.renter_api.call("DELETE", f"/api/v0/volumes/?id={chance.choice(live)}", {})
        report.counts["volumes_deleted"] += 1
    elif offers["offers"]:
        volumes.append(rent_volume(stack))
        report.counts["volumes_rented"] += 1


def live_volumes(stack: Stack) -> list[int]:
    rows = stack.renter_api.get("/api/v0/volumes?owner=me&type=all_volume") or {}
    return [row["id"] for row in rows.get("volumes", [])]


def befall(stack: Stack, tenants: list[int], chance: random.Random, report: Report, number: int) -> None:
    """One fault, with deeds of renters before and during it."""
    fault, deed, tenant = chance.choice(FAULTS), chance.choice(DEEDS), chance.choice(tenants)
    if chance.random() < 0.5:
        do(stack, tenant, deed)
        time.sleep(chance.uniform(0, 0.5))
    engine = stack.engine
    assert isinstance(engine, PrivateDocker)
    if "daemon" in fault:
        stack.kill_daemon()
    if "marketplace" in fault:
        stack.kill_marketplace()
    if fault == "dockerd":
        engine.kill()
    elif deed == "die":
        do(stack, chance.choice(tenants), deed)
    time.sleep(chance.uniform(0, 2))
    if fault == "dockerd":
        engine.start()
    if "marketplace" in fault:
        stack.start_marketplace()
    if "daemon" in fault:
        stack.start_daemon()
    do(stack, chance.choice(tenants), chance.choice(DEEDS))
    report.counts[f"{fault} killed".replace(" ", "_")] += 1
    time.sleep(chance.uniform(0, 2))
    report.say(f"round {number + 1}: {fault} killed around a {deed}, {len(report.violations)} violations")


def do(stack: Stack, tenant: int, deed: str) -> None:
    """What a renter, or his process, does."""
    path = f"/api/v0/instances/{tenant}/"
    if stack.marketplace is not None and at_rest(stack, tenant):
        deed = "start"
    if deed in ("stop", "start") and stack.marketplace is not None:
        status, reply = stack.renter_api.call("PUT", path, {"state": "stopped" if deed == "stop" else "running"})
        if status != 200:
            raise RuntimeError(f"{deed} of {tenant} was refused: {status} {reply}")
    if deed == "reboot" and stack.marketplace is not None:
        stack.renter_api.call("PUT", f"/api/v0/instances/reboot/{tenant}/", {})
    if deed == "die":
        try:
            stack.engine.request("POST", f"/containers/C.{tenant}/kill")
        except (OSError, KaaliaError, RuntimeError):
            return


def leave(stack: Stack, tenants: list[int], watcher: Watcher, report: Report) -> None:
    """All are stopped, so that Docker tells each end, and destroyed, so that the disks end too."""
    for tenant in tenants:
        stack.renter_api.call("PUT", f"/api/v0/instances/{tenant}/", {"state": "stopped"})
    for tenant in tenants:
        wait_until(f"instance {tenant} to rest", partial(at_rest, stack, tenant), 60, 0.1)
    time.sleep(3 * LOOK_S)
    watcher.look()
    for tenant in tenants:
        stack.renter_api.call("DELETE", f"/api/v0/instances/{tenant}/", {})
    for volume_id in live_volumes(stack):
        stack.renter_api.call("DELETE", f"/api/v0/volumes/?id={volume_id}", {})
    wait_until("the machine to be empty", lambda: stack.rentable_offer(4), 60)
    wait_until("the journal to arrive", lambda: not open_charges(stack), 60)
    report.say("all stopped, destroyed and told")


def at_rest(stack: Stack, tenant: int) -> bool:
    row = stack.instance(tenant)
    return bool(row and row["actual_status"] in ("stopped", "exited"))


def compare(stack: Stack, tenants: list[int], watcher: Watcher, report: Report) -> None:
    """Journal, charges and Docker's own times."""
    ended = datetime.now(UTC)
    for tenant in tenants:
        machine, market = of_machine(stack, tenant), of_market(stack, tenant)
        report.check(f"both sides have the same intervals of {tenant}", machine == market, (machine, market))
        sums = metering.usage(machine, ended), metering.usage(market, ended)
        report.check(f"both sides have the same sums of {tenant}", sums[0] == sums[1], sums)
        counted = [(one.started_at, one.ended_at) for one in machine if one.meter is Meter.RUN]
        real = sorted(watcher.runs[f"C.{tenant}"].items())
        report.check(f"what was counted of {tenant} is what Docker ran", same(counted, real), (counted, real))
        disks = [one for one in machine if one.meter is Meter.DISK]
        report.check(f"the disk of {tenant} was kept once, all the time", len(disks) == 1, disks)
        report.counts["intervals"] += len(machine)
        report.worst("longest_run_s", float(sums[0].run_s))


def compare_volumes(stack: Stack, volumes: list[int], watcher: Watcher, report: Report) -> None:
    """Journal and charges of each volume, and when its data were there."""
    ended = datetime.now(UTC)
    for volume_id in volumes:
        machine, market = of_machine(stack, volume_id, Meter.VOLUME), of_market(stack, volume_id, Meter.VOLUME)
        report.check(f"both sides have the same intervals of volume {volume_id}", machine == market, (machine, market))
        sums = metering.usage(machine, ended), metering.usage(market, ended)
        report.check(f"both sides have the same byte-seconds of volume {volume_id}", sums[0] == sums[1], sums)
        first_seen = watcher.volumes.get(volume_id)
        was_there = [first_seen] if first_seen else []
        report.check(f"volume {volume_id} was counted once at most", len(machine) <= 1, machine)
        begun = [one.started_at for one in machine]
        is_true = all(one >= seen - timedelta(seconds=NEAR_S) for one, seen in zip(begun, was_there, strict=False))
        report.check(f"volume {volume_id} was not counted before it was there", is_true, (begun, was_there))
        report.counts["volume_intervals"] += len(machine)
        report.worst("longest_volume_s", float(sums[0].disk_s))


def compare_money(stack: Stack, began: datetime, report: Report) -> None:
    """What is charged is what the clients of both sides show."""
    window = ("-s", str(int(began.timestamp())), "-e", str(int(datetime.now(UTC).timestamp())))
    rows = stack.renter.json("show", "invoices-v1", "-c", "-l", "100", *window)
    shown = sum((Decimal(str(row["amount"])) for row in rows["results"]), Decimal(0))
    owed = sum((Decimal(row[0]) for row in ask(stack, "SELECT amount FROM charges")), Decimal(0))
    report.check("the client shows what was charged", abs(shown - owed) < Decimal("1e-6"), (shown, owed))
    left = Decimal(str(stack.renter.json("show", "user")["credit"]))
    report.check("the credit is less by what was charged", abs(1000 - left - owed) < Decimal("1e-6"), (left, owed))
    earned = Decimal(str(stack.host.json("show", "earnings")["current"]["total"]))
    report.check("the host earned what the renter was charged", abs(earned - owed) < Decimal("1e-6"), (earned, owed))


def same(counted: list[tuple[datetime, datetime | None]], real: list[tuple[datetime, datetime | None]]) -> bool:
    near = timedelta(seconds=EXACT_S)
    return len(counted) == len(real) and all(
        one is not None and other is not None and abs(one - other) <= near
        for pair, twin in zip(counted, real, strict=True)
        for one, other in zip(pair, twin, strict=True)
    )


def of_machine(stack: Stack, number: int, *meters: Meter) -> tuple[Interval, ...]:
    """Of a tenant; of a volume with Meter.VOLUME."""
    read = journal.of_volume if Meter.VOLUME in meters else journal.all_entries
    books = f"file:{stack.folder}/state/state.db?mode=ro"
    with closing(sqlite3.connect(books, uri=True, factory=Transaction)) as connection:
        connection.row_factory = sqlite3.Row
        return metering.intervals(read(connection, number))


def of_market(stack: Stack, number: int, *meters: Meter) -> tuple[Interval, ...]:
    names = ", ".join(f"'{meter}'" for meter in meters or (Meter.RUN, Meter.DISK))
    query = (
        f"SELECT meter, quantity, started_at, ended_at FROM charges WHERE contract_id = {number} AND meter IN ({names})"
    )
    found = [
        Interval(number, Meter(meter), quantity, _at(started), None if ended is None else _at(ended))
        for meter, quantity, started, ended in ask(stack, query)
    ]
    return tuple(sorted(found, key=lambda one: (one.started_at, one.meter)))


def open_charges(stack: Stack) -> int:
    return len(ask(stack, "SELECT id FROM charges WHERE ended_at IS NULL"))


def ask(stack: Stack, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{stack.data_dir}/marketplace.db?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def _at(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _time(text: str) -> datetime | None:
    return None if text.startswith("0001") else datetime.fromisoformat(text)
