"""The image's root filesystem: it has all that it needs, and nothing of the machine that it was built on."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts import self_test_image
from scripts.self_test_image import BuildError
from tests.support.self_test_image import build_tar


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tar(tmp_path_factory.mktemp("image"))


def test_it_runs_alone(tar: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    with tarfile.open(tar) as archive:
        archive.extractall(tmp_path, filter="tar")
    asked = "import ctypes, ssl, http.server, hashlib, zlib; from verification import stages; print(len(stages.STAGES))"
    inside = ["chroot", str(tmp_path)]

    done = subprocess.run([*inside, "/bin/sh", "-c", f"cd / && python3 -E -s -S -c '{asked}' && openssl version"],
                          capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin"})  # fmt: skip

    assert done.returncode == 0, done.stderr
    stages, openssl = done.stdout.splitlines()
    assert (stages, openssl.split()[0]) == ("4", "OpenSSL")


def test_it_has_the_client_s_program_and_every_file_is_root_s(tar: Path) -> None:
    with tarfile.open(tar) as archive:
        members = {one.name: one for one in archive.getmembers()}

    assert members["verification/remote.sh"].mode == 0o755
    assert {(one.uid, one.gid, one.mtime) for one in members.values()} == {(0, 0, 0)}
    assert not [name for name in members if name.startswith(("home", "work", "var/lib")) or "site-packages" in name]


def test_a_root_without_python_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot find a Python of 3\.11 or newer in .*: install python3 there"):
        self_test_image.contents(tmp_path)
