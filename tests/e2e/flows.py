"""What renters and hosts do with the unmodified client, one function a flow; each asserts what it promises.

The end-to-end tests and `scripts/prove client` run the same list, in this order, on one stack.
"""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.stack import Stack
from tests.support.waiting import wait_until

SERVE = (
    "mkdir -p /www; env > /www/env.txt; hostname > /www/hostname.txt; httpd -p 8080 -h /www; "
    'httpd -p "$VAST_TCP_PORT_70000" -h /www; serve 8081/udp & '
    "echo ready to serve; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
)
SERVE_ENV = (
    "mkdir -p /www; env > /www/env.txt; httpd -p 8000 -h /www; "
    "echo ready; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
)
CREATE_ENV = "-e A=B -p 8080:8080 -p 8081:8081/udp -p 70000:70000 -h node1"


@dataclass
class World:
    """The stack, the image to rent, and what earlier flows left for later ones."""

    stack: Stack
    image: str
    instance_id: int = 0
    ports: dict[str, Any] = field(default_factory=dict)
    template_hash: str = ""
    template_id: int = 0


def raw(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that `--raw` printed; the client's own errors fail here."""
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    assert '"error"' not in done.stderr, done.stderr
    return json.loads(done.stdout)


def fetch(port: int, path: str, timeout_s: float = 15) -> str:
    """GET from a mapped port, retried until the container serves."""

    def look() -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                return str(reply.read().decode())
        except OSError:
            return None

    return wait_until(f"port {port} to serve {path}", look, timeout_s)


def environment(port: int) -> dict[str, str]:
    """The environment of the rented container, as it serves it."""
    return dict(line.split("=", 1) for line in fetch(port, "/env.txt").splitlines() if "=" in line)


def udp_echo(port: int, payload: bytes = b"ping") -> bytes:
    """Send a datagram to a mapped port until it comes back."""

    def look() -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.5)
            probe.sendto(payload, ("127.0.0.1", port))
            try:
                return probe.recv(100)
            except OSError:
                return None

    return wait_until(f"UDP port {port} to echo", look, 15)


def host_port(ports: dict[str, Any], name: str) -> int:
    return int(ports[name][0]["HostPort"])


def machine_is_shown(world: World) -> None:
    """`show machines`, raw and as a table, names the machine and its GPUs."""
    rows = raw(world.stack.host.run("show", "machines", "--raw"))["machines"]
    assert [row["id"] for row in rows] == [world.stack.machine_id]
    assert rows[0]["num_gpus"] == 2
    table = world.stack.host.run("show", "machines")
    assert str(world.stack.machine_id) in table.stdout
    assert "4090" in table.stdout


def machine_is_listed(world: World) -> None:
    """`list machine` makes offers; a plain search hides the unverified machine, `verified=any` shows it."""
    done = world.stack.host.run("list", "machine", str(world.stack.machine_id), "-g", "0.4", "-s", "0.1", "-m", "1")
    assert done.returncode == 0, done.stderr
    assert raw(world.stack.renter.run("search", "offers", "--raw")) == []
    offers = raw(world.stack.renter.run("search", "offers", "verified=any", "--raw"))
    assert sorted(offer["num_gpus"] for offer in offers) == [1, 1, 2]


def offers_are_filtered(world: World) -> None:
    """Numbers, names, sizes in GB, orders and limits mean what the client's help says."""
    renter = world.stack.renter
    query = "verified=any gpu_name=RTX_4090 num_gpus>=1 gpu_ram>20 cuda_vers>=12.0 rented=any"
    offers = raw(renter.run("search", "offers", query, "-o", "num_gpus-", "--limit", "2", "--raw"))
    assert [offer["num_gpus"] for offer in offers] == [2, 1]
    assert raw(renter.run("search", "offers", "verified=any gpu_name=H100_SXM", "--raw")) == []
    assert raw(renter.run("search", "offers", "verified=any gpu_ram>30", "--raw")) == []
    table = renter.run("search", "offers", query)
    assert "4090" in table.stdout
    assert "invalid return" not in table.stdout + table.stderr


def instance_is_created(world: World) -> None:
    """`create instance` with ports, identity port, hostname and variables runs the container as asked."""
    offer_id = world.stack.rentable_offer(1)
    done = world.stack.renter.run(
        *("create", "instance", str(offer_id), "--image", world.image, "--disk", "1", "--label", "first"),
        *("--env", CREATE_ENV, "--raw", "--args", "sh", "-c", SERVE),
    )
    reply = raw(done)
    assert reply["success"] is True
    assert len(reply["instance_api_key"]) >= 32
    world.instance_id = int(reply["new_contract"])
    row = world.stack.wait_status(world.instance_id, "running")
    world.ports = row["ports"]
    variables = environment(host_port(world.ports, "8080/tcp"))
    assert variables["A"] == "B"
    assert variables["CONTAINER_ID"] == str(world.instance_id)
    assert variables["VAST_CONTAINERLABEL"] == f"C.{world.instance_id}"
    assert variables["CONTAINER_API_KEY"] == reply["instance_api_key"]
    assert variables["GPU_COUNT"] == "1"
    assert variables["VAST_URL"] == world.stack.url
    assert variables["PUBLIC_IPADDR"] == "127.0.0.1"
    assert variables["VAST_TCP_PORT_8080"] == str(host_port(world.ports, "8080/tcp"))
    assert variables["VAST_UDP_PORT_8081"] == str(host_port(world.ports, "8081/udp"))
    assert fetch(host_port(world.ports, "8080/tcp"), "/hostname.txt").strip() == "node1"


def ports_answer(world: World) -> None:
    """TCP, UDP and the identity port answer from outside; the identity port has one number on both sides."""
    assert udp_echo(host_port(world.ports, "8081/udp")) == b"ping"
    identity = int(environment(host_port(world.ports, "8080/tcp"))["VAST_TCP_PORT_70000"])
    assert host_port(world.ports, f"{identity}/tcp") == identity
    assert "A=B" in fetch(identity, "/env.txt")


def instances_are_shown(world: World) -> None:
    """`show instances` and `show instance`, raw and as tables."""
    renter = world.stack.renter
    rows = raw(renter.run("show", "instances", "--raw"))
    seen = [(row["id"], row["actual_status"], row["label"]) for row in rows]
    assert seen == [(world.instance_id, "running", "first")]
    assert str(world.instance_id) in renter.run("show", "instances").stdout
    row = raw(renter.run("show", "instance", str(world.instance_id), "--raw"))
    assert row["intended_status"] == row["actual_status"] == row["cur_state"] == "running"
    assert dict(row["extra_env"])["A"] == "B"
    table = renter.run("show", "instance", str(world.instance_id))
    assert table.returncode == 0
    assert "running" in table.stdout


def logs_are_read(world: World) -> None:
    """`logs` prints the container's output; tail and filter work; daemon logs tell the story."""
    renter = world.stack.renter
    instance = str(world.instance_id)
    assert "ready to serve" in renter.run("logs", instance).stdout
    assert "ready to serve" in renter.run("logs", instance, "--tail", "5", "--filter", "ready").stdout
    assert "ready to serve" not in renter.run("logs", instance, "--filter", "nothing like this").stdout
    assert "running" in renter.run("logs", instance, "--daemon-logs").stdout


def instance_is_stopped_and_started(world: World) -> None:
    """Stop keeps the contract; start brings the container back on the same ports."""
    instance = str(world.instance_id)
    assert world.stack.renter.run("stop", "instance", instance).returncode == 0
    world.stack.wait_status(world.instance_id, "stopped")
    assert world.stack.renter.run("start", "instance", instance).returncode == 0
    row = world.stack.wait_status(world.instance_id, "running")
    assert row["ports"] == world.ports
    assert environment(host_port(world.ports, "8080/tcp"))["A"] == "B"


def instance_is_rebooted(world: World) -> None:
    """Reboot restarts the container under the same contract and ports."""
    port = host_port(world.ports, "8080/tcp")
    before = started_at(world)
    assert world.stack.renter.run("reboot", "instance", str(world.instance_id)).returncode == 0
    wait_until("the container to start anew", lambda: started_at(world) > before, 30)
    row = world.stack.wait_status(world.instance_id, "running")
    assert row["ports"] == world.ports
    assert environment(port)["A"] == "B"


def started_at(world: World) -> str:
    """When the container's process started, by Docker itself; ISO 8601 sorts by time."""
    return str(world.stack.engine.inspect(f"C.{world.instance_id}")["State"]["StartedAt"])


def instance_is_labelled(world: World) -> None:
    """`label instance` changes the label that `show instances` prints."""
    assert world.stack.renter.run("label", "instance", str(world.instance_id), "second").returncode == 0
    rows = raw(world.stack.renter.run("show", "instances", "--raw"))
    assert rows[0]["label"] == "second"


def instance_is_destroyed(world: World) -> None:
    """Destroy removes it from every view and frees the GPU for the next renter."""
    done = world.stack.renter.run("destroy", "instance", str(world.instance_id), "-y")
    assert done.returncode == 0, done.stderr
    assert raw(world.stack.renter.run("show", "instances", "--raw")) == []
    assert world.stack.renter.run("show", "instance", str(world.instance_id)).returncode == 1
    wait_until("the whole machine to be rentable again", lambda: world.stack.rentable_offer(2), 30)


def template_is_created(world: World) -> None:
    """`create template` and `search templates`; the same content is the same template."""
    renter = world.stack.renter
    name, tag = world.image.split(":")
    args = ["create", "template", "--name", "vllm", "--image", name, "--image_tag", tag, "--disk_space", "2"]
    args += ["--env", "-e MODEL_ID=deepseek -e MAX_TOKENS=4096 -p 8000:8000"]
    done = renter.run(*args)
    assert done.returncode == 0, done.stderr
    assert "New Template" in done.stdout
    found = raw(renter.run("search", "templates", "name=vllm", "--raw"))
    assert len(found) == 1
    assert len(found[0]["hash_id"]) == 32
    renter.run(*args)
    assert len(raw(renter.run("search", "templates", "name=vllm", "--raw"))) == 1
    world.template_hash = found[0]["hash_id"]
    world.template_id = found[0]["id"]


def template_is_updated(world: World) -> None:
    """`update template` changes what is given, keeps the rest, and makes a new hash."""
    renter = world.stack.renter
    done = renter.run("update", "template", world.template_hash, "--name", "vllm two")
    assert done.returncode == 0, done.stdout + done.stderr
    found = raw(renter.run("search", "templates", f"id={world.template_id}", "--raw"))
    assert found[0]["name"] == "vllm two"
    assert found[0]["image"] == world.image.split(":")[0]
    assert "MAX_TOKENS=4096" in found[0]["env"]
    assert found[0]["hash_id"] != world.template_hash
    world.template_hash = found[0]["hash_id"]


def template_is_rented_with_overrides(world: World) -> None:
    """The request's variables win, the template's stay: MODEL_ID, MAX_TOKENS, HF_TOKEN inside the container."""
    offer_id = world.stack.rentable_offer(2)
    reply = raw(
        world.stack.renter.run(
            *("create", "instance", str(offer_id), "--template_hash", world.template_hash, "--raw"),
            *("--env", "-e MODEL_ID=mistral -e HF_TOKEN=hf_xxx", "--args", "sh", "-c", SERVE_ENV),
        )
    )
    instance_id = int(reply["new_contract"])
    row = world.stack.wait_status(instance_id, "running")
    variables = environment(host_port(row["ports"], "8000/tcp"))
    asked = {key: variables.get(key) for key in ("MODEL_ID", "MAX_TOKENS", "HF_TOKEN", "GPU_COUNT")}
    assert asked == {"MODEL_ID": "mistral", "MAX_TOKENS": "4096", "HF_TOKEN": "hf_xxx", "GPU_COUNT": "2"}
    assert row["disk_space"] == 2
    world.stack.destroy(instance_id)


def template_is_deleted(world: World) -> None:
    """`delete template` takes it out of the owner's search."""
    renter = world.stack.renter
    assert renter.run("delete", "template", "--template-id", str(world.template_id)).returncode == 0
    assert raw(renter.run("search", "templates", f"id={world.template_id}", "--raw")) == []


def account_is_kept(world: World) -> None:
    """Environment variables of the account reach new containers; API keys with few rights are held to them."""
    renter = world.stack.renter
    made = renter.run("create", "env-var", "MY_SECRET", "s3cret")
    assert "MY_SECRET created" in made.stdout, made.stdout + made.stderr
    instance_id = world.stack.rent(
        world.stack.rentable_offer(1) or 0,
        image=world.image,
        disk=1,
        runtype="args",
        env={"-p 8000:8000": "1"},
        args=["sh", "-c", SERVE_ENV],
    )
    row = world.stack.wait_status(instance_id, "running")
    assert environment(host_port(row["ports"], "8000/tcp"))["MY_SECRET"] == "s3cret"
    world.stack.destroy(instance_id)
    renter.run("delete", "env-var", "MY_SECRET")


def sdk_does_the_same(world: World) -> None:
    """The SDK class does all of the above, in the client's own interpreter."""
    stack = world.stack
    done = stack.renter.python(
        Path(__file__).parent / "sdk_session.py",
        DEMO_IMAGE=world.image,
        DEMO_MACHINE_ID=str(stack.machine_id),
        DEMO_SERVE=SERVE_ENV,
        DEMO_HOST_KEY=stack.host_key,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["machines"] == 1
    assert "ready" in seen["instance"].pop("logs")
    assert seen["instance"] == {"price": 0.3, "labels": ["by-sdk"], "same_ports": True, "gone": True}
    assert seen["template"]["names"] == ["sdk two"]
    assert seen["template"]["left"] == 0
    wanted = {"MODEL_ID": "b", "MAX_TOKENS": "4096", "HF_TOKEN": "hf_xxx"}
    assert wanted.items() <= dict(seen["template"]["env"]).items()
    wait_until("the machine to be free", lambda: stack.rentable_offer(2), 30)


def machine_is_unlisted(world: World) -> None:
    """`unlist machine` ends new rentals and touches nothing that runs."""
    stack = world.stack
    offer = stack.rentable_offer(1) or 0
    instance_id = stack.rent(offer, image=world.image, disk=1, runtype="args", args=["sleep", "99"])
    stack.wait_status(instance_id, "running")
    assert stack.host.run("unlist", "machine", str(stack.machine_id)).returncode == 0
    wait_until("the offers to go", lambda: stack.rentable_offer() is None, 10)
    time.sleep(0.5)
    row = stack.instance(instance_id)
    assert row is not None
    assert row["actual_status"] == "running"
    stack.list_machine()
    stack.destroy(instance_id)


FLOWS: tuple[Callable[[World], None], ...] = (
    machine_is_shown,
    machine_is_listed,
    offers_are_filtered,
    instance_is_created,
    ports_answer,
    instances_are_shown,
    logs_are_read,
    instance_is_stopped_and_started,
    instance_is_rebooted,
    instance_is_labelled,
    instance_is_destroyed,
    template_is_created,
    template_is_updated,
    template_is_rented_with_overrides,
    template_is_deleted,
    account_is_kept,
    sdk_does_the_same,
    machine_is_unlisted,
)
