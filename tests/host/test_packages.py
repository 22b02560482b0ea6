"""Whether the machine updates itself, and what it would replace, by the files of apt and dpkg."""

from pathlib import Path

import pytest

from kaalia.health.host_rules import rules
from kaalia.host.packages import Upgrades, parse, stamp, upgrades
from tests.support.sysfs import write_files

STATUS = """Package: nvidia-driver-570
Status: install ok installed

Package: libnvidia-compute-570
Status: hold ok installed

Package: nvidia-utils-535
Status: deinstall ok config-files

Package: containerd
Status: install ok installed

Package: vim
Status: install ok installed"""
ON = 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";'
WATCHED = ("nvidia-", "libnvidia-", "containerd")


def machine(root: Path, periodic: str = ON, more: str = "// none", installed: bool = True) -> Path:
    return write_files(
        root,
        {
            "var/lib/dpkg/status": STATUS,
            "etc/apt/apt.conf.d/20auto-upgrades": periodic,
            "etc/apt/apt.conf.d/50unattended-upgrades": more,
            **({"usr/bin/unattended-upgrade": ""} if installed else {}),
        },
    )


def test_packages_that_may_be_replaced_are_named(tmp_path: Path) -> None:
    found = upgrades(WATCHED, machine(tmp_path))

    assert found == Upgrades(is_on=True, exposed=("nvidia-driver-570", "containerd"))


def test_libraries_of_another_architecture_are_held_apart(tmp_path: Path) -> None:
    """As Ubuntu's drivers bring them: `apt-mark hold NAME` holds the native one only."""
    entries = [
        ("dpkg", "install", "amd64"),
        ("libnvidia-gl-570", "hold", "amd64"),
        ("libnvidia-gl-570", "install", "i386"),
    ]
    entries += [("nvidia-dkms-570", "install", "amd64"), ("nvidia-firmware-570", "install", "all")]
    status = "\n\n".join(
        f"Package: {name}\nStatus: {state} ok installed\nPriority: optional\nArchitecture: {kind}\nDepends: libc6: x"
        for name, state, kind in entries
    )
    root = write_files(machine(tmp_path), {"var/lib/dpkg/status": status + "\n"})

    found = upgrades(WATCHED, root)

    assert found == Upgrades(is_on=True, exposed=("libnvidia-gl-570:i386", "nvidia-dkms-570", "nvidia-firmware-570"))


def test_what_is_on_the_blacklist_is_safe(tmp_path: Path) -> None:
    more = """Unattended-Upgrade::Package-Blacklist {
        // "vim";
        "nvidia-";  # the driver
        "containerd$";
        "broken(";
    };"""

    assert upgrades(WATCHED, machine(tmp_path, more=more)) == Upgrades(is_on=True, exposed=())


@pytest.mark.parametrize(
    ("periodic", "installed"),
    [
        (ON, False),
        (ON.replace('Upgrade "1"', 'Upgrade "0"'), True),
        ("", True),
        ("// " + ON.replace("\n", "\n// "), True),
        ("/* " + ON + " */", True),
    ],
)
def test_where_it_is_off_nothing_is_read(tmp_path: Path, periodic: str, installed: bool) -> None:
    assert upgrades(WATCHED, machine(tmp_path, periodic, installed=installed)) == Upgrades(is_on=False, exposed=())


def test_both_forms_of_apts_settings_are_read() -> None:
    text = 'APT { Periodic { Unattended-Upgrade "1"; Verbose "2"; }; };\nAcquire::http::Proxy "http://p:1/"; A:: "x";'

    assert list(parse(text)) == [
        ("apt::periodic::unattended-upgrade", "1"),
        ("apt::periodic::verbose", "2"),
        ("acquire::http::proxy", "http://p:1/"),
        ("a", "x"),
    ]


def test_the_last_word_counts_and_changes_are_seen(tmp_path: Path) -> None:
    root = machine(tmp_path)
    before = stamp(root)
    write_files(root, {"etc/apt/apt.conf.d/99-off": 'APT::Periodic::Unattended-Upgrade "0";'})

    assert upgrades(WATCHED, root) == Upgrades(is_on=False, exposed=())
    assert stamp(root) != before


def test_another_distribution_has_no_such_thing(tmp_path: Path) -> None:
    assert upgrades(WATCHED, tmp_path) is None
    assert stamp(tmp_path) == ()


@pytest.mark.parametrize(
    ("name", "is_watched"),
    [
        ("nvidia-driver-570-server", True),
        ("libnvidia-compute-570", True),
        ("nvidia-dkms-570-open", True),
        ("docker.io", True),
        ("containerd", True),
        ("containerd.io", False),
        ("docker-ce", False),
        ("libnvidia-container1", False),
        ("nvidia-container-toolkit", False),
        ("runc", True),
        ("linux-image-6.8.0-45-generic", False),
    ],
)
def test_only_what_the_distribution_itself_replaces_is_watched(tmp_path: Path, name: str, is_watched: bool) -> None:
    root = machine(tmp_path)
    write_files(root, {"var/lib/dpkg/status": f"Package: {name}\nStatus: install ok installed"})

    found = upgrades(rules().limits.packages, root)

    assert found == Upgrades(is_on=True, exposed=(name,) if is_watched else ())
