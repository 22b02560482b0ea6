"""The faulty engine does what each fault says, and is no different from dockerd where none is named."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import PrivateDocker
from tests.support.docker_proxy import DockerProxy, Fault
from tests.support.images import DEMO_IMAGE, rootfs

pytestmark = pytest.mark.docker


@pytest.fixture
def proxy(tmp_path: Path, docker_host: PrivateDocker) -> Iterator[DockerProxy]:
    with DockerProxy(tmp_path / "proxy.sock", docker_host) as proxy:
        yield proxy
    docker_host.remove_containers()


def create(proxy: DockerProxy, name: str) -> None:
    proxy.request("POST", f"/containers/create?name={name}", {"Image": DEMO_IMAGE, "Cmd": ["sleep", "100"]})


def test_what_no_fault_names_passes(proxy: DockerProxy, docker_host: PrivateDocker) -> None:
    proxy.import_image("kaalia/proxied:latest", rootfs())
    create(proxy, "plain")
    proxy.request("POST", "/containers/plain/start")

    assert docker_host.inspect("plain")["State"]["Running"]
    assert proxy.request("GET", "/version") == docker_host.request("GET", "/version")


def test_an_answer_is_lost_after_its_effect_once(proxy: DockerProxy, docker_host: PrivateDocker) -> None:
    proxy.add(Fault("lost", "POST", "/containers/create"))

    with pytest.raises((OSError, http.client.HTTPException)):
        create(proxy, "lost")

    assert docker_host.has_container("lost")
    assert proxy.hits() == [1]
    create(proxy, "heard")


def test_a_dropped_request_has_no_effect(proxy: DockerProxy, docker_host: PrivateDocker) -> None:
    proxy.add(Fault("drop", "POST", "/containers/create"))

    with pytest.raises((OSError, http.client.HTTPException)):
        create(proxy, "dropped")

    assert not docker_host.has_container("dropped")


def test_a_refusal_is_an_answer_of_its_own(proxy: DockerProxy) -> None:
    proxy.add(Fault("refuse", "GET", "/version"))

    with pytest.raises(RuntimeError, match="spoilt"):
        proxy.request("GET", "/version")
    assert proxy.request("GET", "/version")


def test_an_answer_is_cut_in_its_middle(proxy: DockerProxy) -> None:
    proxy.add(Fault("cut", "GET", "/version"))

    with pytest.raises((OSError, http.client.HTTPException)):
        proxy.request("GET", "/version")

    assert proxy.request("GET", "/version")
