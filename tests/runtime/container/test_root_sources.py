"""From what an engine says of a container to where its files are: nothing is taken that is not its own."""

from typing import Any

import pytest

from kaalia.errors import WorkloadError
from kaalia.runtime.container.roots import source_of

ID = "ab" * 32
ROOT = "/var/lib/docker"
LAYER = f"{ROOT}/overlay2/{'cd' * 32}"


def container(driver: str = "overlay2", upper: str = f"{LAYER}/diff", **changes: Any) -> dict[str, Any]:
    state = {"Status": "exited", "Pid": 0}
    return {"Id": ID, "State": state, "GraphDriver": {"Name": driver, "Data": {"UpperDir": upper}}, **changes}


def test_a_stopped_one_is_found_by_its_storage_driver() -> None:
    assert source_of(container(), ROOT) == {"volumes": [], "layer": LAYER}
    assert source_of(container("btrfs"), ROOT) == {"volumes": [], "subvolume": [ROOT, ID]}


@pytest.mark.parametrize("status", ["running", "paused"])
@pytest.mark.parametrize("driver", ["overlay2", "btrfs", "zfs", "overlayfs"])
def test_a_running_one_is_found_by_its_process(status: str, driver: str) -> None:
    found = container(driver, State={"Status": status, "Pid": 51})

    assert source_of(found, ROOT) == {"volumes": [], "process": [51, ID]}


def test_volumes_are_shown_and_no_other_mounts() -> None:
    mounts = [
        {"Type": "bind", "Source": "/volumes/77@ab/V.3/data", "Destination": "/data"},
        {"Type": "volume", "Source": f"{ROOT}/volumes/nameless/_data", "Destination": "/srv"},
        {"Type": "bind", "Source": "/var/lib/kaalia/kit/78e2", "Destination": "/.kaalia"},
        {"Type": "bind", "Source": "/etc", "Destination": "/host"},
        {"Type": "tmpfs", "Source": "", "Destination": "/.kaalia/run"},
    ]

    assert source_of(container(Mounts=mounts), ROOT)["volumes"] == [
        ["/volumes/77@ab/V.3/data", "/data"],
        [f"{ROOT}/volumes/nameless/_data", "/srv"],
    ]


@pytest.mark.parametrize(
    "found",
    [
        container("zfs"),
        container("overlayfs"),
        {"Id": ID, "State": {"Status": "exited"}, "Storage": {"RootFS": {"Snapshot": {"Name": "overlayfs"}}}},
        container(upper=""),
        container(upper="/etc/diff"),
        container(upper=f"{ROOT}/overlay2/../../../etc/diff"),
        container(upper=f"{ROOT}/overlay2/a/b/diff"),
        container(upper="overlay2/a/diff"),
        container(Id="../../etc"),
    ],
    ids=["zfs", "snapshotter", "Docker 29", "no layer", "elsewhere", "climbing", "too deep", "relative", "no id"],
)
def test_what_cannot_be_shown_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(WorkloadError) as refusal:
        source_of(found, ROOT)

    assert refusal.value.code == "view_unavailable"
    assert refusal.value.problem.remedy
