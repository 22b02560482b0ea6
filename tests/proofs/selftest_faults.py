"""What goes wrong in a self-test by the public client, each with the code that it must tell, machine by machine.

A queue is what one machine goes through, one after the other; the queues run side by side, since the client's own waits
are long: two minutes of silence, ten of a test, fifteen of a start. LAST is what all machines feel: one goes through it
when the others are done.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.fake_nvidia.profiles import fault, setting
from tests.support.images import DEMO_IMAGE
from tests.support.rest import Rest
from tests.support.self_test_image import SELF_TEST_IMAGE
from tests.support.self_tests import BANNED_IMAGE, Host, result
from tests.support.waiting import wait_until

Found = dict[str, Any]
LONG_S = 1200.0
PASSES = "passes"


@dataclass(frozen=True)
class World:
    """Names of images: of registries that have no such image (`absent`), or take an hour to give it (`slow`); and such
    whose test is `stuck`, is `endless`, or is `dying` in the middle."""

    absent: str
    slow: str
    stuck: str
    endless: str
    dying: str


@dataclass(frozen=True)
class Case:
    """`code`: the client's failure_code, or PASSES. `has_instance`: the client had rented, so its bundle has logs.

    `evidence`: a word that the client must show its user beside the root state.
    """

    name: str
    code: str
    run: Callable[[Host, World], Found]
    has_instance: bool = True
    root_state: str = ""
    evidence: str = ""


def _image(choose: Callable[[World], str], **shown: Any) -> Callable[[Host, World], Found]:
    def run(host: Host, world: World) -> Found:
        host.show(**shown)
        return host.test(choose(world), timeout_s=LONG_S)

    return run


def _seen(**shown: Any) -> Callable[[Host, World], Found]:
    """The true image, on a machine that is not well."""
    return _image(lambda _: SELF_TEST_IMAGE, **shown)


def _unmeasured(host: Host, _: World) -> Found:
    return host.test()


def _measured(host: Host, world: World) -> Found:
    host.measure()
    return _seen()(host, world)


def _rented(host: Host, _: World) -> Found:
    stack = host.stack
    instance = stack.rent(stack.rentable_offer(2) or 0, image=DEMO_IMAGE, disk=1, runtype="args", args=["sleep", "999"])
    stack.wait_status(instance, "running")
    try:
        return host.test()
    finally:
        stack.destroy(instance)


def _unlisted(host: Host, _: World) -> Found:
    host.stack.host.run("unlist", "machine", str(host.stack.machine_id))
    try:
        return host.test()
    finally:
        host.stack.list_machine()


def _unknown(host: Host, _: World) -> Found:
    found: Found = host.stack.host.json("self-test", "machine", "987654", "--no-support-bundle")
    return found


def _stranger(host: Host, _: World) -> Found:
    return result(host.start(key="0" * 64), 60)


def _interrupted(host: Host, _: World) -> Found:
    host.show()
    running = host.start()
    wait_until("an instance", lambda: instances(host), 60, 0.2)
    time.sleep(1)  # the client has the answer, and waits
    running.send_signal(signal.SIGINT)
    return result(running, 120)


def _offline(host: Host, _: World) -> Found:
    host.show()
    running = host.start()
    wait_until("an instance", lambda: instances(host), 60, 0.1)
    host.stack.kill_daemon()
    try:
        return result(running, LONG_S)
    finally:
        host.stack.start_daemon()


def _silent(host: Host, _: World) -> Found:
    host.stack.kill_daemon()
    try:
        wait_until("the machine to be offline", lambda: not host.stack.rentable_offer(2), 300, 1)
        return host.test()
    finally:
        host.stack.start_daemon()


def _drained(host: Host, _: World) -> Found:
    host.stack.kaalia("drain", "--socket", str(host.stack.socket))
    try:
        wait_until("offers to know", lambda: not host.stack.rentable_offer(2), 30)
        return host.test()
    finally:
        host.stack.kaalia("drain", "--cancel", "--socket", str(host.stack.socket))


def _nameless(host: Host, _: World) -> Found:
    host.show()
    host.move("auto")
    try:
        return host.test()
    finally:
        host.move("127.0.0.1")


def _somebody_s(host: Host, _: World) -> Found:
    return result(host.start(key=host.stack.add_user("other", host=True)), 60)


def _unserved(host: Host, _: World) -> Found:
    host.stack.kill_marketplace()
    try:
        return host.test()
    finally:
        host.stack.start_marketplace()


def _left_alone(*, is_back: bool) -> Callable[[Host, World], Found]:
    """The marketplace is gone once the client has seen the instance run, for some seconds or until the client ends."""

    def run(host: Host, _: World) -> Found:
        host.show()
        running = host.start()
        wait_until("an instance", lambda: instances(host), 60, 0.2)
        wait_until("it to run", host.stack.live_instances, 60, 0.2)
        time.sleep(15)
        host.stack.kill_marketplace()
        if is_back:
            time.sleep(5)
            host.stack.start_marketplace()
        try:
            return result(running, LONG_S)
        finally:
            if not is_back:
                host.stack.start_marketplace()
                host.stack.remove_workloads()  # which the client could not

    return run


def instances(host: Host) -> list[int]:
    """What the owner has rented of this machine."""
    rows = Rest(host.stack.url, host.stack.host_key).get("/api/v0/instances/")["instances"]
    return [int(row["id"]) for row in rows if row["machine_id"] == host.stack.machine_id]


STUCK = "import time\ntime.sleep(3600)\n"
ENDLESS = (
    "import json, time\nfor turn in range(3600):\n"
    '    print(json.dumps({"progress": 0.5, "words": f"turn {turn}"}), flush=True)\n    time.sleep(1)\n'
)
DYING = "import os, signal, time\ntime.sleep(45)\nos.kill(os.getppid(), signal.SIGKILL)\n"
"""The client has met the door by then."""

HOOK_WORDS = "nvidia-container-cli: initialization error: nvml error: driver not loaded"
UNMEASURED = Case("nothing measured yet", "preflight_requirements_failed", _unmeasured, has_instance=False)
FIRST = (
    UNMEASURED,
    Case("all is well", PASSES, _measured),
    Case("rented by somebody", "no_rentable_offer", _rented, has_instance=False, root_state="currently_rented"),
    Case("not listed", "no_offer", _unlisted, has_instance=False, root_state="zero_active_offers"),
    Case("no such machine", "no_offer", _unknown, has_instance=False, root_state="offline_or_not_listed"),
    Case("not one's own", "instance_create_failed", _somebody_s, has_instance=False),
    Case(
        "drained by its owner",
        "no_rentable_offer",
        _drained,
        has_instance=False,
        root_state="deverified_or_below_threshold",
        evidence="machine_draining",
    ),
    Case("a key that nobody has", "api_permission_failed", _stranger, has_instance=False),
    Case("a name that is none", "instance_create_failed", _image(lambda _: "Not A Name"), has_instance=False),
    Case("no such image", "docker_pull_failed", _image(lambda world: world.absent)),
    Case("an image that the owner bans", "instance_status_error", _image(lambda _: BANNED_IMAGE)),
    Case("NVIDIA's hook fails", "daemon_startup_failed", _seen(fail=HOOK_WORDS)),
    Case("no public address", "missing_public_ip", _nameless),
    Case("Ctrl-C", "interrupted", _interrupted),
    Case("all is well again", PASSES, _seen()),
)
SECOND = (
    Case("no driver in the container", "nvml_failed", _seen(has_driver=False)),
    Case("the driver's versions differ", "nvml_failed", _seen(faults=fault("nvmlInit_v2", "error 18"))),
    Case("somebody else uses a GPU", "legacy_progress_error", _seen(faults=setting(1, "vram_used_mb", 2000))),
    Case("too little memory", "legacy_progress_error", _seen(is_roomy=False)),
    Case("a GPU computes wrongly", "resnet_failed", _seen(faults=fault("launch_singles", "flip", 0))),
    Case("tensor cores multiply wrongly", "resnet_failed", _seen(faults=fault("launch_product_bf16", "flip", 1))),
    Case("a kernel never ends", "resnet_failed", _seen(faults=fault("cuStreamQuery", "error 600"))),
    Case("a bit of GPU memory is worn", "ecc_failed", _seen(faults=setting(1, "cuda_stuck", "7800001 3"))),
    Case("an ECC error that nobody can correct", "ecc_failed", _seen(faults=fault("launch_doubles", "error 214", 0))),
    Case("GPUs do not agree on a sum", "nccl_failed", _seen(faults=fault("launch_add", "flip", 0))),
    Case("a kernel fails under load", "stress_gpu_burn_failed", _seen(faults=fault("launch_digest", "error 700", 0))),
)
QUEUES: tuple[tuple[Case, ...], ...] = (
    FIRST,
    SECOND,
    (
        Case("nobody at port 5000", "progress_endpoint_unreachable", _image(lambda _: DEMO_IMAGE)),
        Case("the test dies in the middle", "progress_endpoint_lost", _image(lambda world: world.dying)),
    ),
    (
        Case("the test says nothing more", "progress_empty_timeout", _image(lambda world: world.stuck)),
        Case("the machine goes away", "instance_offline_before_test", _offline),
        Case(
            "the machine is away",
            "no_rentable_offer",
            _silent,
            has_instance=False,
            root_state="deverified_or_below_threshold",
            evidence="machine_offline",
        ),
    ),
    (Case("the test never ends", "runtime_test_timeout", _image(lambda world: world.endless)),),
    (Case("the image never arrives", "instance_start_timeout", _image(lambda world: world.slow)),),
)
LAST = (
    Case("no marketplace answers", "unexpected_error", _unserved, has_instance=False),
    Case("the marketplace starts anew in the middle", PASSES, _left_alone(is_back=True)),
    Case("the marketplace is away when the test is over", PASSES, _left_alone(is_back=False)),
)
NEVER = {
    "instance_status_poll_failed": "the client has the name and never says it: it asks again, to its last minute",
    "cleanup_failed": "the client has the name and never says it: it warns, and the test ends as it had ended",
    "instance_create_missing_contract": "the marketplace gives no answer that says success without the new contract",
    "progress_port_not_mapped": "a machine opens all ports that are asked for, or refuses the contract",
}
"""Codes of the client that no fault of a machine brings about, and why."""
