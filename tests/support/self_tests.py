"""Machines that the public client's self-test finds ready: measured, listed, with GPUs that their containers see.

with room(folder) as made:                      engine, marketplace and a first machine
    found = made.first.test()                   what `vastai self-test machine ID --raw` prints
"""

import json
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support import roomy
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia import build
from tests.support.fake_nvidia.build import Hook, environment, install_hook
from tests.support.fake_nvidia.profiles import gpu_uuid, machine, setting, write
from tests.support.images import import_demo
from tests.support.self_test_image import SELF_TEST_IMAGE, build_tar, driver_files, import_self_test, settings_file
from tests.support.stack import Stack, StackOptions
from tests.support.vastai import VastAI, program
from tests.support.waiting import wait_until

GPUS = "2xRTX_4090"
PEERS = setting(0, "p2p_1", 0) + setting(1, "p2p_0", 0)
SMALL = setting(0, "cuda_mb", 8) + setting(1, "cuda_mb", 8)
_FAST = (("cuda_mb", 160), ("cuda_copies", 0))
LARGE = "".join(setting(gpu, key, value) for gpu in (0, 1) for key, value in _FAST)
"""What the simulated GPUs truly have: small for the steps, which fill it; enough for the daemon's measurement, and
links that are fast on any machine."""
DISK_BYTES = 1024**4
"""The client rents 40 GB on each machine."""
BANNED_IMAGE = "kaalia/banned:latest"
"""By the owners of these machines."""
CONFIG: dict[str, Any] = {
    "speed": {"peer": "marketplace", "max_gb": 1},
    "policy": {"banned_images": [BANNED_IMAGE]},
}
TEST_S = 300.0


@dataclass(frozen=True)
class Host:
    """One machine: its stack, its simulated GPUs, and the folder of both."""

    stack: Stack
    hook: Hook
    driver: Path
    seed: str

    @property
    def gpus(self) -> list[str]:
        return [gpu_uuid(index, self.seed) for index in range(int(GPUS.split("x", maxsplit=1)[0]))]

    def show(self, faults: str = "", fail: str = "", *, is_roomy: bool = True, has_driver: bool = True) -> None:
        """What the next containers see: the GPUs with these faults. `fail`: NVIDIA's hook fails with these words.

        Not `is_roomy`: the memory that this machine really has.
        """
        folder = self.stack.folder
        inside = folder / "gpus-inside.txt"
        write(inside, faults + PEERS + SMALL + machine(GPUS, self.seed))
        shown = driver_files(self.driver, inside) if has_driver else {}
        self.hook.bring(self.gpus, {**shown, **(roomy.files(folder / "roomy-inside") if is_roomy else {})}, fail)

    def measure(self) -> None:
        """The owner's two orders; afterwards offers have all that the preflight asks."""
        for order in (("report", "--measure", "pcie"), ("speedtest",)):
            done = self.stack.kaalia(*order, "--socket", str(self.stack.socket))
            assert done.returncode == 0, done.stdout + done.stderr
        wait_until("offers to tell it", self._is_told, 30)

    def move(self, public_ip: str) -> None:
        """Its owner configures another public address. `auto`: what it finds, which here is none."""
        stack = self.stack
        stack.options = replace(stack.options, public_ip=public_ip)
        stack.write_config()
        stack.kill_daemon(signal.SIGTERM)
        stack.start_daemon()
        wanted = None if public_ip == "auto" else public_ip
        wait_until(
            "the marketplace to know it", lambda: (stack.reported() or {}).get("public_ipaddr", "") == wanted, 60
        )

    def _is_told(self) -> bool:
        _, body = self.stack.renter_api.call("POST", "/api/v0/bundles/", {"machine_id": {"eq": self.stack.machine_id}})
        return any(row["pcie_bw"] and row["inet_down"] and row["inet_up"] for row in body["offers"])

    def start(self, image: str = SELF_TEST_IMAGE, *flags: str, key: str = "") -> "subprocess.Popen[str]":
        """The unmodified client, by the machine's owner, or with another key."""
        client = self.stack.host
        client = VastAI(client.url, key or client.key, client.home)
        client.home.mkdir(parents=True, exist_ok=True)
        argv = [program(), "self-test", "machine", str(self.stack.machine_id), "--test-image", image, "--raw"]
        argv += ["--support-bundle-dir", str(self.stack.folder), *flags]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env=client.environment(), stdin=subprocess.DEVNULL, **pipes)

    def test(self, image: str = SELF_TEST_IMAGE, *flags: str, timeout_s: float = TEST_S) -> dict[str, Any]:
        return result(self.start(image, *flags), timeout_s)

    def left(self) -> list[str]:
        """What Docker still has of this machine's contracts."""
        return [*(f"C.{number}" for number in self.stack.live_instances()), *self.stack.contract_networks()]


def result(running: "subprocess.Popen[str]", timeout_s: float) -> dict[str, Any]:
    """What it printed, decoded. Raises ValueError that quotes it where that is no JSON."""
    out, err = running.communicate(timeout=timeout_s)
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        raise ValueError(f"self-test: {running.returncode} {out[-3000:]!r} {err[-3000:]!r}") from None
    return found


def bundle(found: dict[str, Any]) -> dict[str, str]:
    """Files of the support bundle of a test that failed."""
    where = found["diagnostics"]["support_bundle"]["path"]
    with tarfile.open(where) as archive:
        members = [one for one in archive.getmembers() if one.isfile()]
        read = {one.name: archive.extractfile(one) for one in members}
        return {name: file.read().decode() for name, file in read.items() if file}


@dataclass
class Room:
    engine: PrivateDocker
    hook: Hook
    driver: Path
    folder: Path
    tar: Path
    first: Host
    cleanup: ExitStack

    def another(self, number: int, **config: Any) -> Host:
        """One more machine of the same owner and marketplace."""
        stack = _stack(self.engine, self.driver, self.folder / f"m{number}", number, config)
        first = self.first.stack
        stack.port, stack.url, stack.data_dir = first.port, first.url, first.data_dir
        stack.host_key, stack.renter_key = first.host_key, first.renter_key
        self.cleanup.callback(stack.close)
        stack.join()
        return Host(stack, self.hook, self.driver, seed(number))


def seed(number: int) -> str:
    return f"machine {number}"


@contextmanager
def room(folder: Path, bridge: str | None = None, marketplace_args: tuple[str, ...] = ()) -> Iterator[Room]:
    """Everything private, everything gone at the end; the self-test image and the demo image are there.

    `bridge`: of the engine, where another one has docker0.
    """
    with ExitStack() as cleanup:
        hook = install_hook(folder / "hook")
        own: dict[str, Any] = {"bridge": bridge, "bridge_cidr": "172.27.8.1/24"} if bridge else {}
        private = PrivateDocker(folder / "docker", extra_path=hook.folder, disk_bytes=DISK_BYTES, **own)
        engine = cleanup.enter_context(private)
        import_demo(engine)
        tar = build_tar(folder)
        import_self_test(engine, tar, files=settings_file())
        driver = build.build_cuda(build.build(folder / "driver"))
        stack = _stack(engine, driver, folder / "m0", 0, {}, marketplace_args)
        cleanup.callback(stack.close)
        stack.up()
        yield Room(engine, hook, driver, folder, tar, Host(stack, hook, driver, seed(0)), cleanup)


def _stack(
    engine: PrivateDocker,
    driver: Path,
    folder: Path,
    number: int,
    config: dict[str, Any],
    marketplace_args: tuple[str, ...] = (),
) -> Stack:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "gpus.txt", LARGE + machine(GPUS, seed(number)))
    first = 21000 + 200 * number
    own = {**CONFIG, "docker": {"subnet_pool": f"10.{200 + number}.0.0/16"}, **config}
    options = StackOptions(
        engine,
        f"{first}-{first + 127}",
        gpu_env=environment(driver, folder / "gpus.txt"),
        extra_config=own,
        marketplace_args=marketplace_args,
        around_daemon=roomy.around(folder / "roomy"),
    )
    return Stack(folder, options)
