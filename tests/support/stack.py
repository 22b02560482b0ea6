"""A whole kaalia on loopback: a marketplace process and a daemon process against a Docker Engine.

Used by the end-to-end tests, the proofs, the benchmarks and the demo. Everything lives in one folder;
`close()` ends what was started. Processes are real ones, so they can be killed as a crash would.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from sqlalchemy.ext.asyncio import AsyncEngine

from kaalia.client import LocalClient
from kaalia.clock import SystemClock
from kaalia.errors import KaaliaError
from kaalia.marketplace import accounts, machines, run
from kaalia.model.availability import Record
from kaalia.runtime.labels import machine_filter, machine_name
from kaalia.wire import signature
from tests.support.engine_api import EngineApi
from tests.support.kits import KITS
from tests.support.rest import Rest
from tests.support.vastai import VastAI
from tests.support.waiting import wait_until

Say = Callable[[str], None]


@dataclass(frozen=True)
class StackOptions:
    """`gpu_env`: environment that points the probe at a simulated driver. `extra_config` is merged last."""

    engine: EngineApi
    port_range: str = "21000-21399"
    """Below the kernel's range for outgoing connections, which could take a port away between look and start."""
    public_ip: str = "127.0.0.1"
    gpu_env: dict[str, str] | None = None
    extra_config: dict[str, Any] | None = None
    extra_env: dict[str, str] | None = None
    marketplace_args: tuple[str, ...] = ()
    around_daemon: tuple[str, ...] = ()
    """Words before its command, such as those of `tests.support.roomy`."""
    clocks: dict[str, Path] | None = None
    """Control files of `tests.support.clocked` for `daemon` and `marketplace`; None: the real clocks."""


class Stack:
    """Start with `up()`; then `host` and `renter` are real clients with keys of their own."""

    def __init__(self, folder: Path, options: StackOptions, say: Say = lambda _: None) -> None:
        self.folder = folder
        self.options = options
        self.engine = options.engine
        self._say = say
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "marketplace"
        self.config_file = folder / "kaalia.yaml"
        self.socket = folder / "kaalia.sock"
        self.marketplace: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.machine_id = 0
        self.host_key = ""
        self.renter_key = ""

    @property
    def host(self) -> VastAI:
        return VastAI(self.url, self.host_key, self.folder / "home-host")

    @property
    def renter(self) -> VastAI:
        return VastAI(self.url, self.renter_key, self.folder / "home-renter")

    @property
    def host_api(self) -> Rest:
        return Rest(self.url, self.host_key)

    @property
    def renter_api(self) -> Rest:
        return Rest(self.url, self.renter_key)

    def up(self) -> None:
        """Marketplace, two accounts, enrolment, daemon, first report. Takes a few seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start_marketplace()
        self._say(f"marketplace answers on {self.url}")
        self.host_key = self.add_user("host", host=True)
        self.renter_key = self.add_user("renter")
        self.join()

    def join(self) -> None:
        """One more machine of the marketplace that runs: configuration, enrolment, daemon, first report."""
        self.write_config()
        self.machine_id = self._enroll()
        self._say(f"enrolled as machine {self.machine_id}")
        self.start_daemon()
        wait_until("the machine's first report", self.reported, 30)
        self._say("daemon is running and has reported this machine")

    def reported(self) -> Any:
        """The machine row once a report has arrived, else None."""
        rows = self.host_api.get(f"/api/v0/machines/{self.machine_id}")
        return rows[0] if rows and rows[0].get("cpu_cores") else None

    def start_marketplace(self) -> None:
        serve = ["marketplace", "serve", "--listen", f"127.0.0.1:{self.port}", "--data", str(self.data_dir)]
        serve += ["--may-probe", "127.0.0.0/8", *self.options.marketplace_args]
        self.marketplace = self._spawn("marketplace", serve)
        wait_until("the marketplace to answer", lambda: Rest(self.url).get("/api/v0/gpu_names/unique/"), 30)

    def start_daemon(self, **env: str) -> None:
        # What is compiled stays for the next start, as it lies in a release.
        env = {"PYTHONDONTWRITEBYTECODE": "", **env}
        self.daemon = self._spawn("daemon", ["daemon", "--config", str(self.config_file)], env)

    def kill_daemon(self, number: int = signal.SIGKILL) -> None:
        self.daemon = self._end(self.daemon, number)

    def kill_marketplace(self, number: int = signal.SIGKILL) -> None:
        self.marketplace = self._end(self.marketplace, number)

    def close(self) -> None:
        self.kill_daemon(signal.SIGTERM)
        self.kill_marketplace(signal.SIGTERM)

    def list_machine(self, price: float = 0.4) -> None:
        """The owner lists the machine, through the real client."""
        self.host.json("list", "machine", str(self.machine_id), "--price_gpu", str(price))

    def rentable_offer(self, num_gpus: int | None = None) -> int | None:
        """The id of a rentable offer of this machine."""
        query: dict[str, Any] = {"machine_id": {"eq": self.machine_id}, "rentable": {"eq": True}}
        if num_gpus is not None:
            query["num_gpus"] = {"eq": num_gpus}
        _, body = self.renter_api.call("POST", "/api/v0/bundles/", query)
        offers = body.get("offers") if isinstance(body, dict) else None
        return int(offers[0]["id"]) if offers else None

    def rent(self, offer_id: int, **body: Any) -> int:
        """Accept an offer by a raw request; returns the instance id. Raises on refusal."""
        status, reply = self.renter_api.call("PUT", f"/api/v0/asks/{offer_id}/", {"client_id": "me", **body})
        if status != 200:
            raise RuntimeError(f"the offer was refused: {status} {reply}")
        return int(reply["new_contract"])

    def instance(self, instance_id: int) -> dict[str, Any] | None:
        body = self.renter_api.get(f"/api/v0/instances/{instance_id}/?owner=me")
        return body["instances"] if body else None

    def wait_status(
        self, instance_id: int, status: str, timeout_s: float = 60, every_s: float = 0.05
    ) -> dict[str, Any]:
        """Wait until `actual_status` is as wanted; returns the row."""

        def look() -> dict[str, Any] | None:
            row = self.instance(instance_id)
            return row if row and row["actual_status"] == status else None

        try:
            return wait_until(f"instance {instance_id} to be {status}", look, timeout_s, every_s)
        except TimeoutError as error:
            row = self.instance(instance_id) or {}
            seen = {key: row.get(key) for key in ("actual_status", "intended_status", "status_msg")}
            raise TimeoutError(f"{error}; row: {seen}; the daemon's log:\n{self.log_text('daemon')[-3000:]}") from None

    def destroy(self, instance_id: int) -> None:
        """Destroy and wait until the machine has proven it gone: the offer is rentable again."""
        self.renter_api.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        wait_until("the offer to be rentable again", self.rentable_offer, 60)

    def remove_workloads(self) -> None:
        """Take away what still runs for this machine, as the renters would have done."""
        for number in self.live_instances():
            self.host_api.call("DELETE", f"/api/v0/instances/{number}/", {})
            self.renter_api.call("DELETE", f"/api/v0/instances/{number}/", {})
        wait_until("the containers to go", lambda: not self.live_instances(), 60, 0.2)

    def live_instances(self) -> list[int]:
        """Contracts of this machine whose containers the engine has."""
        return [
            int(container["Labels"]["io.kaalia.contract"]) for container in self._labelled("/containers/json?all=1&")
        ]

    def contract_networks(self) -> list[str]:
        """Networks that the engine has for a contract of this machine."""
        return [network["Name"] for network in self._labelled("/networks?")]

    def _labelled(self, path: str) -> list[dict[str, Any]]:
        identity = signature.load_private_pem((self.folder / "state" / "identity.pem").read_bytes())
        mine = machine_filter(machine_name(self.machine_id, signature.key_id(identity)))
        filters = quote(json.dumps({"label": [mine, "io.kaalia.contract"]}))
        found: list[dict[str, Any]] = self.engine.request("GET", f"{path}filters={filters}")
        return found

    def local_state(self, instance_id: int) -> str | None:
        """The state of a contract's workload in the daemon's own words, over its socket; None while it does not say."""
        try:
            return str(LocalClient(self.socket).contract(instance_id).state)
        except KaaliaError:
            return None

    def write_config(self) -> None:
        config: dict[str, Any] = {
            "state_dir": str(self.folder / "state"),
            "socket": str(self.socket),
            "docker": {"host": self.engine.docker_host},
            "ports": {"range": self.options.port_range, "public_ip": self.options.public_ip},
            "access": {"kit_dir": str(KITS)},
            "canary": {"every_hours": "off"},  # a machine is offered at once; the tests of that are its own
            "speed": {"peer": "off"},  # nothing may take the processors while something is measured or timed
        }
        for key, value in (self.options.extra_config or {}).items():
            config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
        self.config_file.write_text(yaml.safe_dump(config))

    def kaalia(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a kaalia command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "kaalia.cli.main", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self._env(),
        )

    def add_user(self, name: str, *, host: bool = False) -> str:
        """A further account; returns its API key."""
        return self._at_the_database(lambda engine: accounts.add_user(engine, name, host))

    def remember(self, record: Record) -> None:
        """What the marketplace heard of the machine, in the place of what it did."""

        async def work(engine: AsyncEngine) -> str:
            async with engine.begin() as tx:
                await machines.put_availability(tx, self.machine_id, record)
            return ""

        self._at_the_database(work)

    def log_text(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def enroll_token(self) -> str:
        """A one-time token of the host."""
        now = SystemClock().now()
        return self._at_the_database(lambda engine: accounts.new_enrol_token(engine, "host", now))

    def _at_the_database(self, work: Callable[[AsyncEngine], Awaitable[str]]) -> str:
        """As `kaalia marketplace user add` and `enroll-token` do; each of them takes a processor for two seconds."""

        async def opened() -> str:
            async with run.open_database(self.data_dir) as engine:
                return await work(engine)

        with ThreadPoolExecutor(1) as aside:  # the caller may have a loop of its own
            return aside.submit(asyncio.run, opened()).result()

    def _enroll(self) -> int:
        token = self.enroll_token()
        done = self.kaalia("enroll", self.url, "-", "--config", str(self.config_file), "--json", stdin=token)
        if done.returncode != 0:
            raise RuntimeError(f"cannot enrol: {done.stderr}")
        return int(json.loads(done.stdout)["machine_id"])

    def _env(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **(self.options.gpu_env or {}), **(self.options.extra_env or {}), **(extra or {})}

    def _spawn(self, name: str, args: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*self._around(name), sys.executable, *self._program(name, args)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env(env),
                start_new_session=True,
            )

    def _around(self, name: str) -> tuple[str, ...]:
        return self.options.around_daemon if name == "daemon" else ()

    def _program(self, name: str, args: list[str]) -> list[str]:
        clocks = self.options.clocks or {}
        if name in clocks:
            return ["-m", "tests.support.clocked", str(clocks[name]), *args]
        if name == "daemon":  # as systemd/kaalia.service does
            compiled = f"pycache_prefix={Path(__file__).parents[2] / '.cache' / 'pycache'}"
            return ["-OO", "-X", "no_debug_ranges", "-X", compiled, "-m", "kaalia.daemon", *args[1:]]
        return ["-m", "kaalia.cli.main", *args]

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None, number: int) -> None:
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=15)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
