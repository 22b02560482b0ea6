"""The whole rental on this machine: marketplace, daemon, a listed machine, and the real `vastai` client.

Run by `scripts/demo`, which sets everything up first. Leaves nothing behind: containers, networks, images,
processes and the temporary folder go when it ends.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.support.demo_engine import DemoEngine, open_engine
from tests.support.stack import Say, Stack, StackOptions
from tests.support.vastai import CLIENT
from tests.support.waiting import wait_until

CONTAINER_PORT = 8080
START_TIMEOUT_S = 30
PULL_TIMEOUT_S = 900
SERVE = "env > /www/env.txt; echo kaalia demo is up; exec httpd -f -p 8080 -h /www"


def main() -> int:
    options = _parse()
    stops = Stops()
    started = time.monotonic()

    def say(text: str) -> None:
        with suppress(OSError):  # the terminal may be closed
            print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    with ExitStack() as cleanup:
        try:
            result = _show(options, cleanup, stops, say)
        except Exception:
            stops.go_on()  # Ctrl-C ends commands that the demo waits for, too: then their failure is no news
            raise
        finally:
            stops.hold()
            say("leaving nothing behind")
    if result is None:
        return 0
    print(json.dumps(result))
    return 0 if _all_true(result) else 1


class Stops:
    """Ctrl-C, SIGTERM or a closed terminal end the demo, but not between a start and the note of what was started."""

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def hold(self) -> None:
        self._held = True

    def go_on(self) -> None:
        """Raises SystemExit when a signal came meanwhile."""
        self._held = False
        if self._pending is not None:
            self._on_signal(self._pending)

    def _on_signal(self, number: int, _: object = None) -> None:
        self._pending = number
        if not self._held:
            self._held = True
            raise SystemExit(128 + number)


def _show(options: argparse.Namespace, cleanup: ExitStack, stops: Stops, say: Say) -> dict[str, Any] | None:
    """Everything but the end; what was true, if one rental is all that was asked for."""
    folder = Path(tempfile.mkdtemp(prefix="kaalia-demo-"))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    stops.hold()
    engine = cleanup.enter_context(open_engine(folder, options.gpus, say))
    stops.go_on()
    image = options.image or engine.make_demo_image()

    def say_or_stop(text: str) -> None:
        say(text)
        stops.go_on()
        stops.hold()

    stack = Stack(folder, StackOptions(engine.api, _port_range(), gpu_env=engine.gpu_env), say_or_stop)
    cleanup.callback(stack.close)
    stops.hold()
    stack.up()
    stops.go_on()
    cleanup.callback(stack.remove_workloads)
    stack.list_machine(options.price)
    say(f"machine {stack.machine_id} is listed{_mark(options.gpus)}")
    if options.once:
        return rent_once(stack, image, say, own_image=options.image is None)
    _print_commands(stack, engine, image, options.gpus)
    _wait_for_ctrl_c()
    return None


def rent_once(stack: Stack, image: str, say: Say, *, own_image: bool) -> dict[str, Any]:
    """Search, rent, reach, read and destroy through the installed client; says what was true."""
    renter = stack.renter
    offers = renter.json("search", "offers", f"verified=any machine_id={stack.machine_id}")
    offer_id = int(offers[0]["id"])
    hardware = f"{offers[0]['num_gpus']} x {offers[0]['gpu_name']}" if offers[0]["num_gpus"] else "no GPU"
    say(f"offer {offer_id}: {hardware}, {offers[0]['cpu_cores_effective']:g} cores, {offers[0]['dph_total']:.3f} $/h")
    watch = RunningWatch(stack)
    create = ["create", "instance", str(offer_id), "--image", image, "--disk", "1", "--raw"]
    create += ["--env", f"-e KAALIA_DEMO=yes -p {CONTAINER_PORT}:{CONTAINER_PORT}"]
    create += ["--args", "sh", "-c", SERVE] if own_image else []
    instance_id = int(json.loads(renter.run(*create).stdout)["new_contract"])
    say(f"instance {instance_id} is created")
    row = stack.wait_status(instance_id, "running", START_TIMEOUT_S if own_image else PULL_TIMEOUT_S)
    say(f"instance {instance_id} is running: {row['status_msg']}")
    port = int(row["ports"][f"{CONTAINER_PORT}/tcp"][0]["HostPort"])
    environment = _fetch(port, "/env.txt") if own_image else ""
    result = {
        "machine_id": stack.machine_id,
        "offer_id": offer_id,
        "instance_id": instance_id,
        "status": row["actual_status"],
        "ports": {name: int(bound[0]["HostPort"]) for name, bound in row["ports"].items()},
        "env_ok": not own_image or _env_ok(environment, instance_id, port),
        "http_ok": not own_image or "KAALIA_DEMO" in environment,
        "accept_to_running_s": round(watch.seconds(), 3),
    }
    renter.run("destroy", "instance", str(instance_id), "-y")
    wait_until("the offer to be free again", stack.rentable_offer, 60)
    gone = stack.instance(instance_id) is None
    say(f"instance {instance_id} is destroyed")
    return {**result, "destroyed": gone, **({"simulated": True} if "simulated" in str(offers[0]["gpu_name"]) else {})}


class RunningWatch:
    """Notes when the marketplace first shows an instance as running, from a thread of its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seconds: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """From acceptance, as the marketplace dates it, to the first sight of `running`."""
        self._thread.join(60)
        if self._seconds is None:
            raise TimeoutError("the instance was never seen running")
        return self._seconds

    def _watch(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            body = self._stack.renter_api.get("/api/v1/instances/")
            for row in body["instances"] if body else []:
                if row["actual_status"] == "running":
                    self._seconds = time.time() - row["start_date"]
                    return
            time.sleep(0.02)


def _env_ok(environment: str, instance_id: int, port: int) -> bool:
    lines = set(environment.splitlines())
    wanted = {
        "KAALIA_DEMO=yes",
        f"CONTAINER_ID={instance_id}",
        f"VAST_CONTAINERLABEL=C.{instance_id}",
        f"VAST_TCP_PORT_{CONTAINER_PORT}={port}",
    }
    return wanted <= lines


def _fetch(port: int, path: str) -> str:
    def look() -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                return str(reply.read().decode())
        except OSError:
            return None

    return wait_until(f"the container's web server on port {port}", look, 20)


def _print_commands(stack: Stack, engine: DemoEngine, image: str, gpus: str | None) -> None:
    client = CLIENT
    args = f"--args sh -c '{SERVE}'" if engine.made_image else ""
    offer_id = stack.rentable_offer()
    print(
        f"""
This machine is listed on a marketplace of its own{_mark(gpus)}. Rent it from another terminal:

  export VAST_URL={stack.url}
  export VAST_API_KEY={stack.renter_key}
  alias vastai={client}

  vastai search offers 'verified=any'
  vastai create instance {offer_id} --image {image} --disk 1 --env '-e HELLO=world -p 8080:8080' {args}
  vastai show instances
  vastai logs <instance id>
  vastai destroy instance <instance id> -y

As the host, in a third terminal:

  export VAST_URL={stack.url} VAST_API_KEY={stack.host_key}
  {client} show machines
  {Path(sys.executable).parent / "kaalia"} status --config {stack.config_file}

Press Ctrl-C to end; nothing is left behind.
""",
        flush=True,
    )


def _wait_for_ctrl_c() -> None:
    try:
        threading.Event().wait()
    except SystemExit as stop:
        if stop.code != 128 + signal.SIGINT:
            raise


def _port_range() -> str:
    """200 ports below the kernel's range for outgoing connections, at a random place: demos may run side by side."""
    first = 20000 + 200 * random.randrange(50)
    return f"{first}-{first + 199}"


def _mark(gpus: str | None) -> str:
    return f" with simulated GPUs ({gpus})" if gpus else ""


def _all_true(result: dict[str, Any]) -> bool:
    return result["status"] == "running" and all(result[key] for key in ("env_ok", "http_ok", "destroyed"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="perform one whole rental, print one JSON object, exit")
    parser.add_argument("--gpus", metavar="NxMODEL", help="simulate GPUs, such as 2xRTX_4090")
    parser.add_argument("--image", help="rent this image instead of one made on the spot from busybox")
    parser.add_argument("--price", type=float, default=0.4, help="US dollars per GPU and hour (default 0.4)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
