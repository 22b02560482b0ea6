"""Jupyter end to end: by HTTPS that the marketplace's root vouches for, in images that know nothing of kaalia."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.rented import destroy, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.kinds import import_kinds, name_of
from tests.support.notebooks import JUPYTER_IMAGE, import_jupyter
from tests.support.sessions import login
from tests.support.ssh import Ssh
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

JUPYTER: dict[str, Any] = {"runtype": "jupyter_direc ssh_direc ssh_proxy", "args": None}
_IS_IT = "tr '\\0' ' ' < $at/cmdline | grep -q '[-]m jupyter_server '"
INTERFACES = {
    "OPEN_BUTTON_PORT": "1111",
    "OPEN_BUTTON_TOKEN": "1",
    "JUPYTER_PORT": "8888",
    "PORTAL_CONFIG": "localhost:1111:11111:/:Instance Portal|localhost:8080:8080:/terminals/1:Jupyter Terminal",
    "PROVISIONING_SCRIPT": "https://example.com/provision.sh?ref=main&x=$1",
}
"""As templates have them."""
PID = f"for at in /proc/[0-9]*; do {_IS_IT} && echo ${{at#/proc/}}; done"


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    import_kinds(docker_host, ["busybox"])
    import_jupyter(docker_host)
    config = {"docker": {"subnet_pool": "10.208.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("jupyter"), "2xRTX_4090", config) as stack:
        stack.list_machine()
        yield stack


@pytest.fixture(scope="module")
def trust(stack: Stack) -> ssl.SSLContext:
    """Nothing but the root that the marketplace hands out."""
    with urllib.request.urlopen(f"{stack.url}/static/jvastai_root.cer") as reply:
        return ssl.create_default_context(cadata=reply.read().decode())


class Page:
    """The renter's browser: no exception is made for a certificate."""

    def __init__(self, stack: Stack, instance: int, trust: ssl.SSLContext) -> None:
        row = stack.wait_status(instance, "running")
        self.url = f"https://{row['public_ipaddr']}:{row['ports']['8080/tcp'][0]['HostPort']}"
        self.token, self._trust = str(row["jupyter_token"]), trust

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"token {self.token if token is None else token}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, headers=headers), context=self._trust, timeout=5
            ) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def answers(self) -> bool:
        """Raises where the connection is answered by somebody that the root does not vouch for."""
        try:
            return self.get("/api/status")[0] == 200
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise
            return False
        except OSError:
            return False

    def certificate(self) -> str:
        """The one that it shows now."""
        host, _, port = self.url.removeprefix("https://").rpartition(":")
        return ssl.get_server_certificate((host, int(port)))


def move(stack: Stack, address: str) -> None:
    """The machine gets another public address; the daemon learns it at its next start."""
    stack.kill_daemon()
    config = yaml.safe_load(stack.config_file.read_text())
    config["ports"]["public_ip"] = address
    stack.config_file.write_text(yaml.safe_dump(config))
    stack.start_daemon()


def interfaces(ssh: Ssh) -> dict[str, str]:
    """The variables of a session; those that a shell reads from /etc/environment are the same."""
    told = ssh.run("env").stdout
    read = ssh.run("env -i /bin/sh -c 'set -a; . /etc/environment; /usr/bin/env'").stdout
    seen = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    kept = dict(line.split("=", 1) for line in read.splitlines() if "=" in line)
    assert {name: kept.get(name) for name in (*INTERFACES, "LANG", "JUPYTER_TOKEN")} == {
        name: seen[name] for name in (*INTERFACES, "LANG", "JUPYTER_TOKEN")
    }
    return seen


def test_jupyter_is_reached_by_https_and_its_token_and_comes_back(
    stack: Stack, key: Path, trust: ssl.SSLContext
) -> None:
    utf8: dict[str, Any] = {"python_utf8": True, "lang_utf8": True}
    instance = rent(stack, image=JUPYTER_IMAGE, jupyter_dir="/srv/work", disk=2, env=INTERFACES, **utf8, **JUPYTER)
    ssh = login(stack, key, instance)
    page = Page(stack, instance, trust)
    wait_until("Jupyter to answer", page.answers, 60, 0.5)

    assert page.get("/api/contents", token="wrong")[0] == 403
    listed = json.loads(page.get("/api/contents/srv/work")[1])
    assert listed["path"] == "srv/work"
    assert ssh.run("grep -q jupyter /.launch").returncode == 0
    seen = interfaces(ssh)
    assert seen["OPEN_BUTTON_TOKEN"] == seen["JUPYTER_TOKEN"] == page.token, "the placeholder is filled in"
    assert {name: seen[name] for name in INTERFACES} == {**INTERFACES, "OPEN_BUTTON_TOKEN": page.token}
    assert {"LANG": "C.UTF-8", "PYTHONUTF8": "1", "JUPYTER_DIR": "/srv/work"}.items() <= seen.items()
    assert page.token not in ssh.run("cat /proc/[0-9]*/cmdline").stdout
    assert page.token not in stack.renter.run("logs", str(instance)).stdout

    pid = ssh.run(PID).stdout.strip()
    before = page.certificate()
    move(stack, "127.0.0.2")
    wait_until("the certificate of the new address", lambda: page.certificate() != before, 60, 1)
    assert page.answers()
    assert ssh.run(PID).stdout.strip() == pid, "nothing restarts for it"

    assert ssh.run(f"kill -9 {pid}").returncode == 0
    wait_until("another Jupyter", lambda: ssh.run(PID).stdout.strip() not in ("", pid), 20, 0.5)
    wait_until("Jupyter to answer again", page.answers, 20, 0.5)
    destroy(stack, instance)


def test_an_image_without_python_lets_its_renter_in_all_the_same(stack: Stack, key: Path) -> None:
    instance = rent(stack, image=name_of("busybox"), **JUPYTER)
    ssh = login(stack, key, instance)

    assert ssh.run("echo in").stdout == "in\n"
    wait_until(
        "the reason in the log", lambda: "jupyter_no_python" in stack.renter.run("logs", str(instance)).stdout, 20, 0.5
    )

    def told() -> bool:
        return "[jupyter_no_python]" in str((stack.instance(instance) or {})["status_msg"])

    wait_until("the reason in status_msg", told, 20, 0.5)
    destroy(stack, instance)
