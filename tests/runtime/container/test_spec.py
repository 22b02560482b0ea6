"""The create bodies: the baseline holds for every placement, and grants arrive exactly."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.errors import WorkloadError
from kaalia.model.machine import Engine
from kaalia.model.workload import LaunchMode, PortBinding, Protocol, VolumeMount
from kaalia.runtime.base import Placement
from kaalia.runtime.container.access import Kit
from kaalia.runtime.container.spec import CAPABILITIES, container_body, fingerprint, network_body
from tests.support.placements import MACHINE, build_placement, build_ports, build_spec

ENGINE = Engine("27.0", "1.46", "overlay2", "/var/lib/docker", "2", True, False, "device_request")
NOFILE = {"Name": "nofile", "Soft": 20000, "Hard": 20000}
KIT = Kit("/kit/1", "/access/C.51")
TAKEN_OUT = [
    "NVIDIA_IMEX_CHANNELS",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_GDRCOPY",
    "NVIDIA_GDS",
    "NVIDIA_MOFED",
    "NVIDIA_NVSWITCH",
]
"""A name without a value: the engine removes what the image says."""
UUIDS = ("GPU-00000000-aaaa-0000-0000-000000000000", "GPU-00000001-aaaa-0000-0000-000000000000")

specs = st.builds(
    build_spec,
    launch_mode=st.sampled_from(LaunchMode),
    args=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    entrypoint=st.none() | st.text(min_size=1, max_size=8),
    env=st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8)), max_size=3).map(tuple),
    hostname=st.none() | st.just("node1"),
    user=st.none() | st.just("1000:1000"),
)


@given(specs, st.sampled_from([(), UUIDS[:1], UUIDS]), st.booleans())
def test_baseline_holds_for_every_placement(spec: object, gpus: tuple[str, ...], quota: bool) -> None:
    placement = build_placement(spec=spec, gpu_uuids=gpus)  # type: ignore[arg-type]

    host = container_body(placement, replace(ENGINE, enforces_disk_size=quota), [NOFILE])["HostConfig"]

    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert tuple(host["CapAdd"]) == CAPABILITIES
    assert not {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD"} & set(host["CapAdd"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["NetworkMode"] == "kaalia-51"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Memory"] == host["MemorySwap"] == placement.share.memory_bytes
    assert (
        not {"Binds", "Mounts", "Devices", "PidMode", "IpcMode", "UsernsMode", "CgroupParent", "Runtime"} & host.keys()
    )
    assert ("StorageOpt" in host) is quota


def test_share_becomes_limits() -> None:
    host = container_body(build_placement(), ENGINE, [NOFILE])["HostConfig"]

    assert (host["CpuShares"], host["CpuQuota"], host["CpuPeriod"]) == (512, 100_000, 100_000)
    assert (host["PidsLimit"], host["ShmSize"]) == (64, 16 * 1024**2)
    assert host["Ulimits"] == [NOFILE]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def test_gpus_arrive_in_one_request_with_explicit_capabilities() -> None:
    env = (("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_DRIVER_CAPABILITIES", "video,root"), ("A", "b"))

    body = container_body(build_placement(gpu_uuids=UUIDS, env=env), ENGINE, [NOFILE])

    assert body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "DeviceIDs": list(UUIDS), "Capabilities": [["gpu", "compute", "utility", "video"]]}
    ]
    assert body["Env"] == ["A=b", *TAKEN_OUT]


def test_gpus_arrive_by_cdi() -> None:
    body = container_body(build_placement(gpu_uuids=UUIDS), replace(ENGINE, gpu_mode="cdi"), [])

    assert body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={uuid}" for uuid in UUIDS]}
    ]
    assert body["Env"] == ["NVIDIA_VISIBLE_DEVICES=void", *TAKEN_OUT]


def test_cpu_only_container_sees_no_gpu_whatever_it_asks_for() -> None:
    body = container_body(build_placement(env=(("NVIDIA_VISIBLE_DEVICES", "all"),)), ENGINE, [NOFILE])

    assert body["Env"] == ["NVIDIA_VISIBLE_DEVICES=void", *TAKEN_OUT]
    assert "DeviceRequests" not in body["HostConfig"]


@pytest.mark.parametrize("gpus", [(), UUIDS])
@pytest.mark.parametrize("mode", ["cdi", "device_request"])
def test_no_variable_of_a_renter_chooses_devices(gpus: tuple[str, ...], mode: str) -> None:
    names = [*TAKEN_OUT, "NVIDIA_VISIBLE_DEVICES", "NVIDIA_IMEX_CHANNEL", "NVIDIA_MIG_X", "NVIDIA_VISIBLE_DEVICES=all"]
    env = (*((name, "all") for name in names), ("NVIDIA_REQUIRE_CUDA", "cuda>=12"), ("NVIDIA", "x"))

    body = container_body(build_placement(gpu_uuids=gpus, env=env), replace(ENGINE, gpu_mode=mode), [])

    own = [] if gpus and mode == "device_request" else ["NVIDIA_VISIBLE_DEVICES=void"]
    assert body["Env"] == ["NVIDIA_REQUIRE_CUDA=cuda>=12", "NVIDIA=x", *own, *TAKEN_OUT]


def test_args_mode_keeps_the_entrypoint_unless_told_otherwise() -> None:
    kept = container_body(build_placement(spec=build_spec(args=("a", "b c"))), ENGINE, [NOFILE])
    replaced = container_body(build_placement(spec=build_spec(entrypoint="/bin/app", args=())), ENGINE, [NOFILE])

    assert "Entrypoint" not in kept
    assert kept["Cmd"] == ["a", "b c"]
    assert replaced["Entrypoint"] == ["/bin/app"]
    assert "Cmd" not in replaced


@pytest.mark.parametrize("mode", [LaunchMode.SSH, LaunchMode.JUPYTER])
def test_access_modes_start_the_launch_script(mode: LaunchMode) -> None:
    spec = build_spec(launch_mode=mode, args=("x",), user="worker")
    body = container_body(build_placement(spec=spec), ENGINE, [NOFILE], KIT)

    assert (body["Entrypoint"], body["Cmd"]) == (["/.kaalia/sbin/init"], [])
    assert (body["User"], body["StopSignal"]) == ("0:0", "SIGTERM")
    assert [(one["Source"], one["Target"], one["ReadOnly"]) for one in body["HostConfig"]["Mounts"]] == [
        ("/kit/1", "/.kaalia", True),
        ("/access/C.51", "/.kaalia/contract", True),
    ]
    assert list(body["HostConfig"]["Tmpfs"]) == ["/.kaalia/run"]


def test_the_engine_publishes_nothing_and_gives_a_fixed_address() -> None:
    ports = (*build_ports(41000, tcp=1, udp=1), PortBinding(70000, 41009, 41009, Protocol.TCP))

    body = container_body(build_placement(ports=ports), ENGINE, [NOFILE])

    assert "PortBindings" not in body["HostConfig"]
    assert set(body["ExposedPorts"]) == {"8000/tcp", "9000/udp", "41009/tcp"}
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "kaalia-51": {"IPAMConfig": {"IPv4Address": "172.28.51.2"}},
    }
    assert body["Labels"]["io.kaalia.address"] == "172.28.51.2"


@pytest.mark.parametrize(
    ("placement", "code"),
    [
        (build_placement(spec=build_spec(volumes=(VolumeMount(901, "/data"),))), "volume_unsupported"),
        (build_placement(spec=build_spec(networks=("lab",))), "network_unsupported"),
        (build_placement(gpu_uuids=UUIDS), "gpu_runtime_missing"),
    ],
)
def test_what_the_machine_cannot_give_is_refused(placement: Placement, code: str) -> None:
    with pytest.raises(WorkloadError) as raised:
        container_body(placement, replace(ENGINE, gpu_mode="none"), [])

    assert raised.value.code == code
    assert raised.value.problem.remedy


def test_fingerprint_changes_with_the_spec_and_the_grants_only() -> None:
    placement = build_placement(ports=build_ports(41000, tcp=1))
    contract = placement.contract
    later = replace(contract, end_at=contract.start_at + timedelta(days=99), restart_count=3)

    assert fingerprint(placement) == fingerprint(replace(placement, subnet="172.28.9.0/29", contract=later))
    assert fingerprint(placement) != fingerprint(replace(placement, gpu_uuids=UUIDS))
    assert fingerprint(placement) != fingerprint(replace(placement, ports=build_ports(41001, tcp=1)))
    assert fingerprint(placement) != fingerprint(build_placement(spec=build_spec(onstart="x"), ports=placement.ports))


def test_health_checks_of_the_image_are_switched_off() -> None:
    assert container_body(build_placement(), ENGINE, [])["Healthcheck"] == {"Test": ["NONE"]}


def test_network_has_the_granted_subnet_and_its_first_address_as_gateway() -> None:
    body = network_body(build_placement(subnet="172.28.4.8/29"))

    assert body["Name"] == "kaalia-51"
    assert body["IPAM"]["Config"] == [{"Subnet": "172.28.4.8/29", "Gateway": "172.28.4.9"}]
    assert body["Labels"]["io.kaalia.machine"] == MACHINE
