"""The configuration of sshd, and the file of keys."""

import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.errors import ConfigError, ContractError
from kaalia.model.machine import PortRange
from kaalia.relay import sshd
from kaalia.relay.options import Options, find_sshd
from kaalia.wire import signature
from kaalia.wire.relay import MachinePermit

ONE, TWO = (signature.openssh_public(signature.generate_key()) for _ in range(2))


def options(data: Path) -> Options:
    ports = PortRange(20000, 20031)
    return Options("west", "127.0.0.1", 2222, ports, "http://127.0.0.1:1", "t", data, "nobody", find_sshd())


def test_each_key_may_listen_on_its_own_ports_and_nothing_else(tmp_path: Path) -> None:
    text = sshd.authorized_keys(
        [MachinePermit(1, ONE, (20000, 20001)), MachinePermit(2, TWO, (20016,))], options(tmp_path)
    )

    first, second = text.splitlines()
    assert first == f'restrict,port-forwarding,permitlisten="20000",permitlisten="20001" {ONE} machine-1'
    assert second == f'restrict,port-forwarding,permitlisten="20016" {TWO} machine-2'


def test_a_key_without_ports_is_left_out(tmp_path: Path) -> None:
    """sshd takes none for any."""
    assert sshd.authorized_keys([MachinePermit(1, ONE, ())], options(tmp_path)) == ""


@pytest.mark.parametrize(
    "permits",
    [
        [MachinePermit(1, ONE, (20000,)), MachinePermit(2, TWO, (20000,))],
        [MachinePermit(1, ONE, (22,))],
        [MachinePermit(1, f"{ONE}\nssh-ed25519 AAAA", (20000,))],
        [MachinePermit(1, f'command="x" {ONE}', (20000,))],
    ],
)
def test_permits_that_cannot_be_meant_change_nothing(tmp_path: Path, permits: list[MachinePermit]) -> None:
    made = options(tmp_path)
    sshd.write_permits(made, [MachinePermit(1, ONE, (20000,))])
    before = (tmp_path / "authorized_keys").read_text()
    with pytest.raises(ContractError):
        sshd.write_permits(made, permits)

    assert (tmp_path / "authorized_keys").read_text() == before


def test_the_host_key_stays_and_is_nobody_elses(tmp_path: Path) -> None:
    made = options(tmp_path / "data")

    assert sshd.prepare(made) == sshd.prepare(made)
    assert stat.S_IMODE((made.data / "host_key").stat().st_mode) == 0o600
    assert stat.S_IMODE(made.data.stat().st_mode) == 0o700


def test_a_host_key_that_is_damaged_is_not_replaced(tmp_path: Path) -> None:
    made = options(tmp_path)
    sshd.prepare(made)
    (tmp_path / "host_key").write_text("x")
    with pytest.raises(ConfigError) as caught:
        sshd.prepare(made)

    assert caught.value.code == "host_key_invalid"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_sshd_itself_reads_the_configuration_as_it_is_meant(tmp_path: Path, address: str) -> None:
    made = replace(options(tmp_path / "a folder"), address=address)
    sshd.prepare(made)
    (made.data / "sshd_config").write_text(sshd.config(made, is_root=False))

    argv = [str(made.sshd), "-T", "-f", str(made.data / "sshd_config")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "privilege separation directory" in done.stderr:
        pytest.skip("sshd wants a folder in /run, which the relay makes when root runs it")
    told = done.stdout.splitlines()
    for line in (
        "maxsessions 0",
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authenticationmethods publickey",
        "allowtcpforwarding remote",
        "allowstreamlocalforwarding no",
        "allowagentforwarding no",
        "x11forwarding no",
        "permittunnel no",
        "permittty no",
        "gatewayports yes",
        "allowusers nobody",
        "clientaliveinterval 10",
        f"authorizedkeysfile {made.data}/authorized_keys",
    ):
        assert line in [word.replace('"', "") for word in told], (line, done.stderr)
