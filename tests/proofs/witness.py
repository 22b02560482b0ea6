"""What must hold after any crash, looked at from outside: Docker's own word, the books as a dead daemon left them, and
the processes of those whom nobody wished to touch."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.proofs.report import Report
from tests.proofs.tenant import Identity
from tests.support.stack import Stack

EXCLUSIVE = ("gpu", "port/tcp", "port/udp", "subnet")
"""Kinds of claims that Docker can contradict."""
ALIVE = ("running", "paused", "restarting")


@dataclass(frozen=True)
class Books:
    """Claims of exclusive kinds as (kind, key) -> contract, amounts as (kind, contract) -> size, open intents."""

    owners: dict[tuple[str, str], int]
    amounts: dict[tuple[str, int], int]
    intents: tuple[int, ...]


SANDBOX = "io.kaalia.sandbox"
TAKEN, READY = "kaalia-sandbox-", "kaalia-warm-"
WARM = 2
"""As many as the daemon keeps ready when the owner says nothing."""


class Witness:
    """I1: `watch` and `check_untouched`. I2: `check_owners`, with the daemon dead. I3: `unsettled`."""

    def __init__(self, stack: Stack, report: Report) -> None:
        self._stack = stack
        self._report = report
        self._watched: dict[int, Identity] = {}
        self._made: set[int] = set()

    def containers(self) -> dict[int, dict[str, Any]]:
        """Inspections of all that bears kaalia's label, by contract."""
        filters = quote(json.dumps({"label": ["io.kaalia.contract"]}))
        found = {}
        for entry in self._stack.engine.request("GET", f"/containers/json?all=1&filters={filters}"):
            try:
                document = self._stack.engine.inspect(entry["Id"])
            except RuntimeError:
                continue  # removed between the two looks
            found[int(document["Config"]["Labels"]["io.kaalia.contract"])] = document
        self._made |= set(found)
        return found

    def networks(self) -> dict[int, list[dict[str, Any]]]:
        """Those of contracts, by the names of the pause containers that hold them."""
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for subnet, name in self._pauses():
            if name.startswith(TAKEN):
                found[int(name.removeprefix(TAKEN))] += self._sandbox_networks(subnet)
        return dict(found)

    def leftovers(self) -> list[str]:
        """Networks of nobody: those that are not warm, and more or fewer than are to be warm."""
        pauses = list(self._pauses())
        warm = [subnet for subnet, name in pauses if name.startswith(READY)]
        used = [name for _, name in pauses if not name.startswith((READY, TAKEN))]
        bare = len(self._sandbox_networks()) - len(pauses)
        words = [f"{name} is not removed" for name in used] + ([f"{bare} networks without a pause"] if bare else [])
        return words + ([f"{len(warm)} warm networks"] if len(warm) != WARM else [])

    def _pauses(self) -> Iterable[tuple[str, str]]:
        """Subnet and name of each."""
        filters = quote(json.dumps({"label": [SANDBOX]}))
        for entry in self._stack.engine.request("GET", f"/containers/json?all=1&filters={filters}"):
            yield entry["Labels"][SANDBOX], entry["Names"][0].lstrip("/")

    def _sandbox_networks(self, subnet: str | None = None) -> list[dict[str, Any]]:
        filters = quote(json.dumps({"label": [SANDBOX if subnet is None else f"{SANDBOX}={subnet}"]}))
        return list(self._stack.engine.request("GET", f"/networks?filters={filters}"))

    def books(self) -> Books:
        with sqlite3.connect(f"file:{self._stack.folder / 'state' / 'state.db'}?mode=ro", uri=True) as db:
            claims = db.execute("SELECT kind, key, contract_id FROM claims").fetchall()
            amounts = db.execute("SELECT kind, owner_id, amount FROM amounts WHERE owner = 'contract'").fetchall()
            intents = db.execute("SELECT contract_id FROM intents WHERE closed_at IS NULL").fetchall()
        db.close()
        owners = {(kind, key): contract for kind, key, contract in claims if kind in EXCLUSIVE}
        counted = {(kind, contract): amount for kind, contract, amount in amounts}
        return Books(owners, counted, tuple(row[0] for row in intents))

    # I1

    def watch(self, *instance_ids: int) -> None:
        """From now on these keep their process."""
        found = self.containers()
        self._watched |= {number: _identity(found[number]) for number in instance_ids}

    def release(self, instance_id: int) -> None:
        """Its renter is about to change it."""
        self._watched.pop(instance_id, None)

    def check_untouched(self, after: str) -> None:
        found = self.containers()
        for number, identity in self._watched.items():
            seen = _identity(found[number]) if number in found else None
            self._report.check(f"I1 C.{number} keeps its process after {after}", seen == identity, (identity, seen))

    # I2

    def check_owners(self, after: str) -> None:
        """Nothing has two owners in Docker, and the books name the owner of all that is in use."""
        containers = self.containers()
        used = _used(containers, self.networks())
        books = self.books()
        owners = books.owners
        for number, document in containers.items():
            is_counted = books.amounts.get(("disk", number), 0) > 0
            self._report.check(f"I2 the books count the disk of C.{number} after {after}", is_counted, books.amounts)
            if document["State"]["Status"] in ALIVE:
                is_shared = {("cpu", number), ("ram", number)} <= books.amounts.keys()
                self._report.check(
                    f"I2 the books count the shares of C.{number} after {after}", is_shared, books.amounts
                )
        for thing, users in used.items():
            self._report.check(f"I2 {thing} has one user after {after}", len(set(users)) == 1, users)
            self._report.check(
                f"I2 the books name the user of {thing} after {after}", owners.get(thing) in users, owners.get(thing)
            )

    # I3

    def waiting(self, wished: Mapping[int, str]) -> set[int]:
        """Containers that are to run, while another one runs with the GPUs that are built into them."""
        containers = self.containers()
        used = {uuid for one in containers.values() if one["State"]["Status"] in ALIVE for uuid in _gpus(one)}
        stopped = [number for number, one in containers.items() if one["State"]["Status"] in ("exited", "created")]
        return {
            number for number in stopped if wished.get(number) == "running" and used & set(_gpus(containers[number]))
        }

    def unsettled(self, wished: Mapping[int, str]) -> list[str]:
        """What is not yet as wished (`running` or `stopped`, by instance; all others are gone): in words."""
        containers, networks, books = self.containers(), self.networks(), self.books()
        claimed = Counter([*books.owners.values(), *(number for _, number in books.amounts)])
        words = [f"C.{number} has an open intent" for number in set(books.intents)] + self.leftovers()
        for number in {*containers, *networks, *claimed} - set(wished):
            left = f"{number in containers} container, {number in networks} network, {claimed[number]} claims"
            words.append(f"C.{number} is gone but leaves {left}")
        waiting = self.waiting(wished)
        for number, state in wished.items():
            if state == "stopped" and number not in {*self._made, *containers, *networks, *claimed}:
                continue  # stopped before anything was made of it
            if number in waiting:
                told = (self._stack.instance(number) or {}).get("status_msg") or ""
                words += [] if "waits for GPU-" in told else [f"C.{number} does not say what it waits for: {told}"]
                continue
            words += _mismatch(number, state, containers.get(number), networks.get(number, []), books)
        return words


def _mismatch(
    number: int, state: str, container: dict[str, Any] | None, networks: Iterable[Any], books: Books
) -> list[str]:
    seen = container["State"]["Status"] if container else "absent"
    wanted = ("running",) if state == "running" else ("exited", "created")
    gpus = [key for (kind, key), owner in books.owners.items() if kind == "gpu" and owner == number]
    gpus += [kind for kind, owner in books.amounts if kind != "disk" and owner == number]
    words = [] if seen in wanted else [f"C.{number} is {seen}, wished {state}"]
    if state == "stopped" and gpus:
        words.append(f"C.{number} is stopped and still holds {gpus}")
    if len(list(networks)) != 1:
        words.append(f"C.{number} has not one network")
    return words


def _identity(document: dict[str, Any]) -> Identity:
    return Identity(int(document["State"]["Pid"]), str(document["State"]["StartedAt"]))


def _gpus(document: dict[str, Any]) -> list[str]:
    """Those that Docker gives to the container whenever it starts."""
    requests = document["HostConfig"].get("DeviceRequests") or []
    return [uuid for request in requests for uuid in request.get("DeviceIDs") or []]


def _used(
    containers: dict[int, dict[str, Any]], networks: dict[int, list[dict[str, Any]]]
) -> dict[tuple[str, str], list[int]]:
    """What exists uses: GPUs of what runs, ports of containers, subnets of networks."""
    used: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, document in containers.items():
        if document["State"]["Status"] in ALIVE:
            for uuid in _gpus(document):
                used["gpu", uuid].append(number)
        # Docker publishes nothing: what the label promises is what the firewall leads there.
        for port in filter(None, document["Config"]["Labels"]["io.kaalia.ports"].split(",")):
            numbers, protocol = port.split("/")
            used[f"port/{protocol}", numbers.rpartition(":")[2]].append(number)
    for number, found in networks.items():
        for network in found:
            used["subnet", network["IPAM"]["Config"][0]["Subnet"]].append(number)
    return used
