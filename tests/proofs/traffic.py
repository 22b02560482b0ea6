"""Every byte to and from the internet is metered once, whatever is killed, and no other byte is.

A tenant sends known amounts to a host of the internet and gets known amounts from it, both by connections of its own
and by its published port, by IPv4 and IPv6, while a host of the LAN does the same at that port. The daemon is killed in
the middle, and somebody flushes the counters. Another tenant sends with its first breath, and is destroyed with its
last byte while the daemon is dead. In the end what the machine counted, what the marketplace charged, what the peers
sent and what their network cards saw must agree.
"""

import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from kaalia.model.metering import TRAFFIC, Meter
from kaalia.model.traffic import Bytes
from kaalia.units import GB
from tests.proofs.metering import ask, at_rest
from tests.proofs.report import Report, Say
from tests.support import neighbourhood6 as six
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

PEER = Path(__file__).parents[1] / "support" / "bytes_peer.py"
ROUNDS = 4
KILLS = 3
LOOK_S = 2
SIZES = (100_000_000, 300_000_000)
RUSH = 30_000_000
PORT = 7000
INTERNET, MACHINE_ON_INTERNET = "198.51.100.7", "198.51.100.1"
LAN, MACHINE_ON_LAN = "192.168.77.7", "192.168.77.1"
FILTERS = ("iptables", "ip6tables")
ETHERNET_HEADER_BYTES = 14
NEAR = 0.01
USD_PER_GB = {Meter.INET_UP: Decimal("0.05"), Meter.INET_DOWN: Decimal("0.02")}


@dataclass
class Ledger:
    """What the peers sent and got, by payload."""

    up: int = 0
    down: int = 0
    lan: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Street:
    """The processes whose networks are those of a host of the internet, of one of the LAN, and of the tenant."""

    internet: int
    lan: int
    tenant: int
    published: int
    """The machine's port that leads to the tenant's."""


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` of transfers (default 4), with a kill of the daemon in each of the first three."""
    report, chance, ledger = Report(say), random.Random(seed), Ledger()
    with ExitStack() as hosts:
        internet = hosts.enter_context(host("wan0", MACHINE_ON_INTERNET, INTERNET))
        lan = hosts.enter_context(host("lan0", MACHINE_ON_LAN, LAN))
        add_ipv6(internet, lan)
        stack, image = hosts.enter_context(scene("2xRTX_4090", extra_config={"intervals": {"resync_s": LOOK_S}}))
        prices = ("-u", str(USD_PER_GB[Meter.INET_UP]), "-d", str(USD_PER_GB[Meter.INET_DOWN]))
        stack.host.json("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", *prices)
        instance_id, street = rent(stack, image, internet, lan)
        hosts.enter_context(server(street.tenant, 8080))
        before = card(internet)
        for number in range(rounds or ROUNDS):
            exchange(stack, street, ledger, chance, is_killed=number < KILLS, report=report)
            say(f"round {number + 1}: {ledger.up / 1e6:.0f} MB up, {ledger.down / 1e6:.0f} MB down so far")
        see_rate(stack, instance_id, street, ledger, report)
        flush(stack, instance_id, street, ledger, report)
        seen = card(internet) - before
        compare(stack, instance_id, ledger, seen, report)
        compare_money(stack, instance_id, report)
        rush(stack, image, internet, report)
        report.counts.update(up_bytes=ledger.up, down_bytes=ledger.down, lan_bytes=ledger.lan)
    return report


def rent(stack: Stack, image: str, internet: int, lan: int) -> tuple[int, Street]:
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    body: dict[str, Any] = {"image": image, "disk": 1, "runtype": "args", "env": {"-p 8080:8080": "1"}}
    instance_id = stack.rent(offer, **body, args=["sleep", "99999"])
    row = stack.wait_status(instance_id, "running")
    pid = int(stack.engine.inspect(f"C.{instance_id}")["State"]["Pid"])
    return instance_id, Street(internet, lan, pid, int(row["ports"]["8080/tcp"][0]["HostPort"]))


def exchange(
    stack: Stack, street: Street, ledger: Ledger, chance: random.Random, *, is_killed: bool, report: Report
) -> None:
    """Bytes in every direction at once, with the daemon killed somewhere in the middle."""
    size = partial(chance.randint, *SIZES)
    deeds = [
        ("up", street.tenant, "put", INTERNET, PORT, size()),
        ("down", street.tenant, "get", INTERNET, PORT, size()),
        ("up", street.internet, "get", MACHINE_ON_INTERNET, street.published, size()),
        ("down", street.internet, "put", MACHINE_ON_INTERNET, street.published, size()),
        ("up", street.tenant, "put", six.INTERNET[0], PORT, size()),
        ("down", street.tenant, "get", six.INTERNET[0], PORT, size()),
        ("up", street.internet, "get", six.MACHINE_ON_INTERNET, street.published, size()),
        ("lan", street.lan, "put", six.MACHINE_ON_LAN, street.published, size()),
        ("lan", street.lan, "get", MACHINE_ON_LAN, street.published, size()),
        ("lan", street.lan, "put", MACHINE_ON_LAN, street.published, size()),
    ]
    running = [threading.Thread(target=move, args=(ledger, report, *deed)) for deed in deeds]
    for thread in running:
        thread.start()
    if is_killed:
        time.sleep(chance.uniform(0, 0.5))
        stack.kill_daemon()
        report.counts["kills"] += 1
    for thread in running:
        thread.join()
    if is_killed:
        time.sleep(chance.uniform(0, 2))
        stack.start_daemon()


def move(ledger: Ledger, report: Report, way: str, pid: int, verb: str, address: str, port: int, size: int) -> None:
    """One transfer, run in the network of a process."""
    done = inside(pid, sys.executable, "-I", str(PEER), verb, address, str(port), str(size))
    arrived = int(done.stdout or 0)
    report.check(f"{size} bytes {way} by {verb} arrive", arrived == size, (arrived, done.stderr[-300:]))
    with ledger.lock:
        setattr(ledger, way, getattr(ledger, way) + arrived)
        report.counts["transfers"] += 1


def see_rate(stack: Stack, instance_id: int, street: Street, ledger: Ledger, report: Report) -> None:
    """While something goes up the daemon shows a rate."""
    move(ledger, report, "up", street.tenant, "put", INTERNET, PORT, SIZES[0])

    def look() -> dict[str, Any] | None:
        found = local(stack, instance_id)
        return found if found and found["rate"] and found["rate"]["up"] > 0 else None

    found = wait_until("a rate", look, 20, 0.2)
    report.worst("rate_mbit_per_s", found["rate"]["up"] * 8 / 1e6)


def flush(stack: Stack, instance_id: int, street: Street, ledger: Ledger, report: Report) -> None:
    """The owner flushes the table when all is read; the counters come back, and the sums go on."""
    before = settled(stack, instance_id)
    for program in FILTERS:
        subprocess.run([program, "-t", "mangle", "-F"], check=True)
    wait_until("the counters to come back", lambda: all("kaalia/" in rules(one) for one in FILTERS), 30, 0.1)
    move(ledger, report, "down", street.tenant, "get", INTERNET, PORT, SIZES[0])
    move(ledger, report, "down", street.tenant, "get", six.INTERNET[0], PORT, SIZES[0])
    after = settled(stack, instance_id)
    report.check(
        "a flush takes nothing from the sums", after.up >= before.up and after.down > before.down, (before, after)
    )
    report.counts["flushes"] += 1


def compare(stack: Stack, instance_id: int, ledger: Ledger, seen: Bytes, report: Report) -> None:
    """The machine's sum, what was charged, what the peers counted, and what the network card of the internet saw."""
    counted = settled(stack, instance_id)
    stack.renter_api.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})
    wait_until("the tenant to rest", lambda: at_rest(stack, instance_id), 60, 0.2)
    charged = wait_until("the charges", lambda: told(stack, instance_id, counted), 30, 0.2)
    report.check("what was charged is what was counted", charged == counted, (charged, counted))
    for way, meter, sent, card_bytes in (
        ("up", counted.up, ledger.up, seen.up),
        ("down", counted.down, ledger.down, seen.down),
    ):
        report.check(f"{way} is within 1 % of what was sent", abs(meter - sent) <= NEAR * sent, (meter, sent))
        report.check(
            f"{way} is within 1 % of the card", abs(meter - card_bytes) <= NEAR * card_bytes, (meter, card_bytes)
        )
        report.worst(f"{way}_error_percent", 100 * abs(meter - sent) / sent)
        report.worst(f"{way}_card_error_percent", 100 * abs(meter - card_bytes) / card_bytes)


def compare_money(stack: Stack, instance_id: int, report: Report) -> None:
    """The renter's client shows the bytes at the agreed prices, and the owner's what was earned by them."""
    rows = stack.renter.json("show", "invoices-v1", "-c", "-l", "100")
    items = [item for row in rows["results"] for item in row["items"] if item["type"] in ("bwu", "bwd")]
    shown = sum((Decimal(str(item["amount"])) for item in items), Decimal(0))
    query = f"SELECT meter, quantity FROM charges WHERE contract_id = {instance_id} AND meter LIKE 'inet%'"
    owed = sum((USD_PER_GB[Meter(meter)] * size / GB for meter, size in ask(stack, query)), Decimal(0))
    report.check("the client shows the bytes at the agreed prices", abs(shown - owed) < Decimal("1e-7"), (shown, owed))
    row = stack.instance(instance_id) or {}
    sizes = ask(stack, f"SELECT SUM(quantity) FROM charges WHERE contract_id = {instance_id} AND meter = 'inet_up'")
    report.check(
        "the row says what was billed", row["inet_up_billed"] * 1000 == sizes[0][0], (row["inet_up_billed"], sizes)
    )
    report.figures["charged_usd"] = float(round(owed, 6))


def rush(stack: Stack, image: str, internet: int, report: Report) -> None:
    """A tenant whose first packet counts, and whose last one does: it is removed at once, by the next daemon."""
    before = card(internet)
    deed = f"(echo take {RUSH}; head -c {RUSH} /dev/zero; sleep 99) | nc {INTERNET} {PORT}"
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    body = {"image": image, "disk": 1, "runtype": "args", "onstart": "sh", "args": ["-c", deed]}
    instance_id = stack.rent(offer, **body)
    wait_until("its bytes to arrive", lambda: (card(internet) - before).up > RUSH, 60, 0.05)
    stack.kill_daemon()
    stack.renter_api.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
    stack.start_daemon()
    wait_until("it to be gone", lambda: not stack.engine.has_container(f"C.{instance_id}"), 60, 0.2)
    sent = wait_until("its last line", lambda: journalled(stack, instance_id), 30, 0.2)
    seen = (card(internet) - before).up
    report.check("first and last bytes are counted", abs(sent - seen) <= NEAR * seen, (sent, seen))
    report.worst("rush_card_error_percent", 100 * abs(sent - seen) / seen)


def journalled(stack: Stack, instance_id: int) -> int | None:
    """The bytes up of a tenant in the machine's journal, once it has told its last."""
    query = "SELECT amount FROM journal WHERE contract_id = ? AND meter = 'inet_up' ORDER BY entry_id DESC LIMIT 1"
    with closing(sqlite3.connect(f"file:{stack.folder}/state/state.db?mode=ro", uri=True)) as connection:
        row = connection.execute(query, (instance_id,)).fetchone()
    return int(row[0]) if row else None


def settled(stack: Stack, instance_id: int) -> Bytes:
    """The machine's sums once they stand still: two looks say the same."""
    last, since = Bytes(), time.monotonic()

    def look() -> Bytes | None:
        nonlocal last, since
        found = local(stack, instance_id)
        total = Bytes(**found["total"]) if found else last
        if total != last:
            last, since = total, time.monotonic()
        return last if last.both and time.monotonic() - since > 3 * LOOK_S else None

    return wait_until("the sums to stand still", look, 60, 0.2)


def told(stack: Stack, instance_id: int, counted: Bytes) -> Bytes | None:
    """What the marketplace charged, once it is as much; the tenant's last words may add a little."""
    query = f"SELECT meter, SUM(quantity) FROM charges WHERE contract_id = {instance_id} GROUP BY meter"
    sums = {meter: size for meter, size in ask(stack, query) if meter in TRAFFIC}
    found = Bytes(sums.get(Meter.INET_UP, 0), sums.get(Meter.INET_DOWN, 0))
    return found if found.up >= counted.up and found.down >= counted.down else None


def local(stack: Stack, instance_id: int) -> dict[str, Any] | None:
    """As `kaalia contracts ID --json` shows it; None while the daemon is away."""
    done = stack.kaalia("contracts", str(instance_id), "--socket", str(stack.socket), "--json")
    return json.loads(done.stdout)["traffic"] if done.returncode == 0 else None


def rules(program: str) -> str:
    return subprocess.run([f"{program}-save", "-t", "mangle"], check=True, capture_output=True, text=True).stdout


def card(pid: int) -> Bytes:
    """IP bytes by the network card of the internet's host. What it gets went up, and what it sends comes down."""
    done = inside(pid, "ip", "-json", "-statistics", "link", "show", "dev", "eth0")
    stats = json.loads(done.stdout)[0]["stats64"]
    up, down = (stats[side]["bytes"] - ETHERNET_HEADER_BYTES * stats[side]["packets"] for side in ("rx", "tx"))
    return Bytes(up, down)


def add_ipv6(internet: int, lan: int) -> None:
    """The host of the internet is behind the one on the machine's own link, which is none of it."""
    for pid, link, ours, theirs in (
        (internet, "wan0", six.MACHINE_ON_INTERNET, (f"{six.NEIGHBOUR}/64", f"{six.INTERNET[0]}/128")),
        (lan, "lan0", six.MACHINE_ON_LAN, (f"{six.LAN}/64",)),
    ):
        ip("-6", "address", "add", f"{ours}/64", "dev", link, "nodad")
        for one in theirs:
            inside(pid, "ip", "-6", "address", "add", one, "dev", "eth0", "nodad")
    ip("-6", "route", "add", six.INTERNET[0], "via", six.NEIGHBOUR)
    six.settle(internet, lan)


@contextmanager
def host(link: str, ours: str, theirs: str) -> Iterator[int]:
    """A host in a namespace of its own, on a cable to the machine, that gives and takes bytes."""
    with server(None, PORT) as pid:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip("address", "add", f"{ours}/24", "dev", link)
        ip("link", "set", link, "up")
        for words in (("address", "add", f"{theirs}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            inside(pid, "ip", *words)
        try:
            yield pid
        finally:
            ip("link", "delete", link)


@contextmanager
def server(pid: int | None, port: int) -> Iterator[int]:
    """A peer in the network of a process, or in a new one; its own process id."""
    where = ("unshare", "--net") if pid is None else ("nsenter", f"--net=/proc/{pid}/ns/net")
    argv = [*where, sys.executable, "-I", str(PEER), "serve", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"no server in the network of {pid}")
            yield process.pid
        finally:
            process.kill()


def inside(pid: int, *argv: str) -> subprocess.CompletedProcess[str]:
    words: Sequence[str] = ("nsenter", f"--net=/proc/{pid}/ns/net", *argv)
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
