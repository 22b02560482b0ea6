"""Stands in for nvidia-container-runtime-hook: Docker's own `--gpus` path runs for real, this records what it asks for.

runc calls it as `nvidia-container-runtime-hook prestart`, with dockerd's environment, the container's state as JSON on
stdin, and the container's environment in <bundle>/config.json. It appends one JSON line to hook.log beside itself.
hook.control beside it, if present, holds {"fail": "<message>"}, {"sleep_s": <seconds>}, {"nodes": true}: device nodes
for the GPUs, which nobody can open here, and the right to them, given as NVIDIA's library gives it; or {"mounts":
{"<path in the container>": "<file of the machine>"}}, as NVIDIA's library brings the driver's. What stands in {"of":
{"<UUID of a GPU>": {...}}} is for containers with that GPU only.
"""

# pathlib would double the time this adds to every container start
# ruff: noqa: PTH100, PTH101, PTH103, PTH110, PTH118, PTH120, PTH123
import json
import os
import stat
import subprocess
import sys
import time
from typing import Any

MAJOR = 195
"""NVIDIA's (kernel, Documentation/admin-guide/devices.txt)."""


def main() -> int:
    folder = os.path.dirname(os.path.abspath(__file__))
    state = json.load(sys.stdin)
    with open(os.path.join(state["bundle"], "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    env = dict(pair.partition("=")[::2] for pair in config["process"].get("env") or ())
    entry = {
        "container_id": state["id"],
        "visible_devices": env.get("NVIDIA_VISIBLE_DEVICES"),
        "driver_capabilities": env.get("NVIDIA_DRIVER_CAPABILITIES"),
        "nvidia_env": sorted(name for name in env if name.startswith("NVIDIA_")),
        "stage": sys.argv[1] if len(sys.argv) > 1 else None,
        "pid": state.get("pid"),
        "bundle": state["bundle"],
    }
    log = os.open(os.path.join(folder, "hook.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, json.dumps(entry).encode() + b"\n")  # one write: lines of concurrent starts do not mix
    return obey(os.path.join(folder, "hook.control"), state, config, env)


def obey(control: str, state: dict[str, Any], config: dict[str, Any], env: dict[str, str]) -> int:
    try:
        with open(control, encoding="utf-8") as file:
            orders = json.load(file)
    except FileNotFoundError:
        return 0
    visible = (env.get("NVIDIA_VISIBLE_DEVICES") or "").split(",")
    for uuid, own in orders.get("of", {}).items():
        if uuid in visible:
            orders = {**orders, **own}
    time.sleep(orders.get("sleep_s", 0))
    if orders.get("nodes"):
        make_nodes(state, config, len(visible))
    for target, source in orders.get("mounts", {}).items():
        bring(state, config, source, target)
    if "fail" in orders:
        print(orders["fail"], file=sys.stderr)
        return 1
    return 0


def make_nodes(state: dict[str, Any], config: dict[str, Any], count: int) -> None:
    """By cgroups of the first version, whose rules are a file."""
    for minor in range(count):
        path = f"/proc/{state['pid']}/root{config['root']['path']}/dev/nvidia{minor}"
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(MAJOR, minor))
        os.chmod(path, 0o666)
    with open(f"/proc/{state['pid']}/cgroup", encoding="ascii") as file:
        place = next(line.split(":", 2)[2].strip() for line in file if line.split(":")[1] == "devices")
    with open(f"/sys/fs/cgroup/devices{place}/devices.allow", "w", encoding="ascii") as file:
        file.write(f"c {MAJOR}:* rw")


def bring(state: dict[str, Any], config: dict[str, Any], source: str, target: str) -> None:
    """One file, by a mount in the container's own namespace, whose root is still the machine's."""
    inside = config["root"]["path"] + target
    path = f"/proc/{state['pid']}/root{inside}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    entering = ["nsenter", f"--mount=/proc/{state['pid']}/ns/mnt"]
    subprocess.run([*entering, "mount", "--bind", source, inside], check=True)


if __name__ == "__main__":
    sys.exit(main())
