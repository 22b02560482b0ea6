"""What is told of a workload, as the public client takes it: no fault while all goes well, and the right one else."""

from dataclasses import replace

import pytest

from kaalia.model.workload import WorkloadState
from kaalia.reconciler import status
from kaalia.runtime.container.faults import classify, stalled
from tests.reconciler.rig import contract
from tests.support.clock import FakeClock
from tests.support.public_client import ALARMING, code_of_status

NOW = FakeClock().now()
IMAGES = ("acme/error-bars:latest", "failsafe/net:1", "a/exceptional@sha256:" + "0" * 64)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_whose_name_sounds_like_a_fault_is_none(image: str) -> None:
    made = contract()
    wanted = replace(made, spec=replace(made.spec, image=image))
    states = (WorkloadState.PULLING, WorkloadState.CREATING, WorkloadState.STARTING)

    told = [status.preparing(wanted, None, (), state, NOW).status_msg for state in states]
    told += [status.running_words(wanted)]

    assert not [text for text in told if any(word in text.lower() for word in ALARMING)]


PULLS = (
    "manifest for acme/absent:latest not found: manifest unknown",
    "pull access denied for acme/private, repository does not exist or may require 'docker login'",
    "toomanyrequests: You have reached your pull rate limit",
    "no matching manifest for linux/amd64 in the manifest list entries",
    "Get https://registry.example/v2/: dial tcp: lookup registry.example: no such host",
    "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
)
STARTS = (
    "OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
    'could not select device driver "" with capabilities: [[gpu]]',
    'OCI runtime create failed: runc create failed: unable to start container process: exec: "/x": not found',
    "failed to create task for container: failed to create shim task: OCI runtime create failed",
)


def test_the_public_client_knows_pulls_and_starts_that_do_not_work_apart() -> None:
    pulls = [classify("pull acme/image:1", text) for text in PULLS] + [stalled("pull acme/image:1", 120, "")]
    starts = [classify("start C.7", text) for text in STARTS]

    told = [status.failed(7, 1, None, error.problem, NOW).status_msg for error in (*pulls, *starts)]

    assert [code_of_status(text) for text in told] == ["docker_pull_failed"] * len(pulls) + [
        "daemon_startup_failed"
    ] * len(starts)
