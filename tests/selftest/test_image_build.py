"""The image's root filesystem: it has all that it needs, and nothing of the machine that it was built on."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts import self_test_image
from scripts.self_test_image import BuildError, settings, within
from tests.support.self_test_image import build_tar
from verification.program import GRACE_S


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


def test_what_the_owner_put_into_his_python_stays_on_his_machine(tar: Path) -> None:
    """Debian has sitecustomize.py in /etc, and a link to it in the library."""
    with tarfile.open(tar) as archive:
        names = {one.name for one in archive.getmembers()}

    assert not [name for name in names if "customize" in name or name.startswith(("etc/python", "root/", "home"))]
    assert {name for name in names if name.startswith("etc/")} == {
        *("etc/passwd", "etc/group", "etc/debian_version", "etc/ld.so.conf"),
        *("etc/ld.so.conf.d", "etc/ld.so.conf.d/local.conf"),
    }


def test_the_same_sources_make_the_same_image(tar: Path, tmp_path: Path) -> None:
    assert build_tar(tmp_path).read_bytes() == tar.read_bytes()


def test_links_of_another_root_lead_into_that_root(tmp_path: Path) -> None:
    """Debian's own /lib64/ld-linux-x86-64.so.2 is such a link: the loader of this machine fits no other C library."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib64").mkdir()
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "lib64").symlink_to("/usr/lib64")
    (tmp_path / "usr/lib64/loader").symlink_to("/lib/../lib/loader-2")
    (tmp_path / "usr/lib/loader-2").write_text("its own")
    (tmp_path / "usr/lib/out").symlink_to("../../../../etc/passwd")
    (tmp_path / "loop").symlink_to("loop")

    assert within(tmp_path, "lib64/loader").read_text() == "its own"
    assert within(tmp_path, "lib/out") == tmp_path / "etc/passwd"
    with pytest.raises(OSError, match="symbolic links"):
        within(tmp_path, "loop").read_bytes()


def test_a_root_that_cannot_be_entered_makes_no_image(tmp_path: Path) -> None:
    for name in ("python3.13", "openssl", "busybox"):
        (tmp_path / "usr/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "usr/bin" / name).write_text("")
    (tmp_path / "usr/lib/python3.13").mkdir(parents=True)

    with pytest.raises(BuildError, match=r"cannot list libraries of .*chroot: .*: run this as root"):
        self_test_image.contents(tmp_path)


def test_a_step_that_hangs_is_ended_before_the_client_gives_up() -> None:
    """The client counts 20 s for each empty answer, and ends the test at 120."""
    told = settings(is_quick=False)

    assert max(told["deadline_s"].values()) + GRACE_S < told["quiet_s"] + 5 * 20


def test_a_root_without_python_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot find a Python of 3\.11 or newer in .*: install python3 there"):
        self_test_image.contents(tmp_path)
