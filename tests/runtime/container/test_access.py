"""What is put into a container of mode ssh or jupyter, and the folder that it sees beside the kit."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.errors import HostError, WorkloadError
from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.access import account, archive, keys_of
from kaalia.runtime.container.kit import AccessFolders
from tests.support.builders import build_contract
from tests.support.kits import access_in, host_key, tls_key
from tests.support.placements import build_spec

PASSWD = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:\nbroken\n"
SSH = build_spec(launch_mode=LaunchMode.SSH, env=(("SSH_PUBLIC_KEY", "ssh-ed25519 A\nssh-rsa B"),))


@pytest.fixture
def access(tmp_path: Path) -> AccessFolders:
    kit = tmp_path / "kit" / "1" / "sbin"
    kit.mkdir(parents=True)
    (kit / "init").touch()
    (tmp_path / "kit" / "current").symlink_to("1")
    return access_in(tmp_path, tmp_path / "kit")


def test_args_mode_adds_nothing() -> None:
    assert archive(build_spec(onstart="x"), 51) is None


def test_access_modes_add_script_onstart_and_label() -> None:
    packed = archive(build_spec(launch_mode=LaunchMode.SSH, onstart="echo a\r\necho b"), 51)

    assert packed is not None
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = {member.name: member for member in tar}
        onstart, launch = tar.extractfile("root/onstart.sh"), tar.extractfile(".launch")
        assert onstart is not None
        assert launch is not None
        assert onstart.read() == b"echo a\necho b\n"
        assert b"jupyter" not in launch.read(), "images take the word for a notebook server that runs already"
    assert members[".launch"].mode == members["root/onstart.sh"].mode == 0o755
    assert members["root"].mode == 0o700


@pytest.mark.parametrize(
    ("user", "name"), [("root", "root"), ("0", "root"), ("worker", "worker"), ("1000", "worker"), ("bob", None)]
)
def test_an_account_is_found_by_name_and_by_number(user: str, name: str | None) -> None:
    assert account(PASSWD, user) == name


def test_keys_are_the_contracts_or_those_that_an_older_marketplace_tells() -> None:
    contract = build_contract(51, spec=SSH)

    assert keys_of(contract) == ("ssh-ed25519 A", "ssh-rsa B")
    assert keys_of(replace(contract, ssh_keys=("ssh-ed25519 C",))) == ("ssh-ed25519 C",)
    assert keys_of(replace(contract, ssh_keys=())) == ()


def test_the_folder_holds_host_key_and_keys_and_comes_back_the_same(access: AccessFolders, tmp_path: Path) -> None:
    contract = build_contract(51, spec=SSH)
    access.write(contract, "worker")
    folder = Path(access.kit(51).contract_folder)

    assert folder == tmp_path / "access" / "C.51"
    assert (folder / "host_key").read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert (folder / "host_key").stat().st_mode & 0o777 == 0o600
    assert (folder / "authorized_keys").read_text() == "ssh-ed25519 A\nssh-rsa B\n"
    assert (folder / "user").read_text() == "worker\n"

    key = (folder / "host_key").read_bytes()
    access.write(replace(contract, ssh_keys=("ssh-ed25519 C",)))

    assert (folder / "host_key").read_bytes() == key
    assert (folder / "authorized_keys").read_text() == "ssh-ed25519 C\n"
    assert (folder / "user").read_text() == "worker\n", "as it was"
    assert {path.name for path in folder.iterdir()} == {"host_key", "authorized_keys", "user"}

    (folder / "host_key").write_bytes(b"")
    access.write(contract)
    assert (folder / "host_key").read_bytes(), "what a loss of power left empty is written again"

    access.forget(51)
    access.forget(51)
    assert not folder.exists()


def test_what_cannot_be_written_is_told(access: AccessFolders, tmp_path: Path) -> None:
    (tmp_path / "access").write_text("a file in the way")

    with pytest.raises(HostError) as raised:
        access.write(build_contract(51, spec=SSH))

    assert raised.value.code == "access_unwritable"


def test_without_a_kit_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError) as raised:
        AccessFolders(tmp_path / "kit", tmp_path / "access", host_key, tls_key).kit(51)

    assert raised.value.code == "kit_missing"
    assert "build-kit" in raised.value.problem.remedy


def test_jupyter_mode_names_it_in_the_launch_file_and_has_a_key_and_a_certificate(access: AccessFolders) -> None:
    spec = build_spec(launch_mode=LaunchMode.JUPYTER)
    packed = archive(spec, 51)
    contract = build_contract(51, spec=spec)
    folder = access.contracts / "C.51" / "jupyter"

    assert packed is not None
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        launch = tar.extractfile(".launch")
        assert launch is not None
        assert b"jupyter" in launch.read()
    access.write(contract)
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not (folder / "chain.pem").exists()
    access.write(contract, chain="PEM")
    access.write(contract)
    assert (folder / "chain.pem").read_text() == "PEM"
    assert (folder / "key.pem").read_bytes() == tls_key(51)
    access.write(replace(contract, spec=SSH))
    assert not folder.exists()


def test_an_older_container_keeps_its_jupyter_and_gets_the_newest_keys(access: AccessFolders) -> None:
    contract = build_contract(51, spec=build_spec(launch_mode=LaunchMode.JUPYTER))
    access.write(contract, "worker", "PEM")
    folder = access.contracts / "C.51"
    for mode in (LaunchMode.SSH, LaunchMode.ARGS):
        newer = replace(contract, spec=replace(SSH, launch_mode=mode), ssh_keys=(f"ssh-ed25519 {mode}",))
        access.renew(newer)
        assert (folder / "authorized_keys").read_text() == f"ssh-ed25519 {mode}\n"
        assert (folder / "jupyter" / "chain.pem").read_text() == "PEM"

    access.renew(newer, "NEXT")
    assert (folder / "jupyter" / "chain.pem").read_text() == "NEXT"


def test_an_older_container_without_access_gets_none(access: AccessFolders) -> None:
    access.renew(build_contract(51, spec=build_spec(launch_mode=LaunchMode.JUPYTER)), "PEM")
    assert not (access.contracts / "C.51").exists()

    ssh = build_contract(52, spec=SSH)
    access.write(ssh)
    access.renew(replace(ssh, spec=build_spec(launch_mode=LaunchMode.JUPYTER)), "PEM")
    assert not (access.contracts / "C.52" / "jupyter").exists()
