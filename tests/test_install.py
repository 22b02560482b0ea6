"""install.sh and uninstall.sh: dry runs, and a real installation below a prefix. The units, as systemd reads them."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.host.netfilter import Family
from kaalia.runtime.labels import machine_name
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.rules import Enclosure, Reach
from kaalia.wire import signature
from tests.support.own_network import is_possible, own_network

ROOT = Path(__file__).parents[1]
ENCLOSURE = Enclosure(51, "br-first", "10.214.0.0/28")
Done = subprocess.CompletedProcess[str]


def script(name: str, *args: str, **env: str) -> Done:
    return subprocess.run(
        [ROOT / name, *args], capture_output=True, text=True, timeout=110, check=False, env=os.environ | env
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, folder, ROOT], check=True, timeout=110)
    return next(folder.glob("*.whl"))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "root"


def install(prefix: Path, wheel: Path, *args: str) -> Done:
    # The dependencies are those of this environment: no network is needed.
    offline = ["--pip-option=--no-deps", "--pip-option=--no-index", "--python", sys.executable]
    target = ["--prefix", str(prefix), "--source", str(wheel)]
    return script("install.sh", *target, *offline, *args, PYTHONPATH=sysconfig.get_paths()["purelib"])


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "releases/" not in str(path)}


def test_a_dry_run_prints_every_step_and_changes_nothing(prefix: Path) -> None:
    done = script("install.sh", "--dry-run", "--prefix", str(prefix), "--python", sys.executable)

    assert done.returncode == 0, done.stderr
    for step in (
        "-m venv",
        "pip install",
        "jupyter_server",
        "kaalia.yaml",
        "--check",
        "current",
        "compileall",
        "99-z-kaalia-ports.conf",
        "kaalia.service",
    ):
        assert step in done.stdout
    assert not prefix.exists()


def test_a_dry_run_for_the_whole_machine_names_systemd(tmp_path: Path) -> None:
    done = script("install.sh", "--dry-run", "--python", sys.executable)

    assert done.returncode == 0, done.stderr
    assert "+ systemctl daemon-reload" in done.stdout
    assert "+ systemctl restart kaalia.service" in done.stdout
    assert "+ sysctl -q -w net.ipv4.ip_local_reserved_ports=" in done.stdout
    assert "scripts/build-kit --into /var/lib/kaalia/kit" in done.stdout


def test_installing_twice_and_uninstalling(prefix: Path, wheel: Path) -> None:
    first = install(prefix, wheel, "--ports", "41000-41099")
    assert first.returncode == 0, first.stderr
    config = prefix / "etc/kaalia/kaalia.yaml"
    assert "range: 41000-41099" in config.read_text()
    python = str(prefix / "opt/kaalia/current/bin/python")
    command = [python, "-P", "-m", "kaalia.daemon.run", "--config", str(config), "--check"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"]})

    compiled = prefix / "opt/kaalia/current/pycache"
    assert list(compiled.rglob("kaalia/daemon/build.*.opt-2.pyc")), "as the unit starts it"
    assert list(compiled.rglob("asyncio/events.*.opt-2.pyc")), "Python's own library too"

    known = prefix / "var/lib/vastai_kaalia"
    assert (known / "test_nvml.py").stat().st_mode & 0o777 == 0o755
    (known / "send_mach_info.py").write_text("# of another daemon\n")

    config.write_text(config.read_text() + "# mine\n")
    before = listing(prefix)
    second = install(prefix, wheel)
    assert second.returncode == 0, second.stderr
    assert "is installed already" in second.stdout
    assert config.read_text().endswith("# mine\n")
    assert listing(prefix) == before

    assert script("uninstall.sh", "--prefix", str(prefix), "--dry-run").returncode == 0
    assert listing(prefix) == before

    kept = script("uninstall.sh", "--prefix", str(prefix))
    assert kept.returncode == 0, kept.stderr
    assert config.exists()
    assert not (prefix / "opt/kaalia").exists()
    assert [path.read_text() for path in known.iterdir()] == ["# of another daemon\n"]
    (known / "send_mach_info.py").unlink()
    assert not (prefix / "etc/systemd/system/kaalia.service").exists()

    assert script("uninstall.sh", "--prefix", str(prefix), "--purge").returncode == 0
    assert not config.exists()
    assert not [path for path in prefix.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize(
    "args",
    [
        ["--nope"],
        ["--ports"],
        ["--prefix"],
        ["--pip-option"],
        ["--ports", "lots"],
        ["--prefix", "relative"],
        ["--source", "/nonexistent"],
    ],
)
def test_wrong_usage_of_the_installer_ends_with_2_and_a_remedy(args: list[str]) -> None:
    done = script("install.sh", "--dry-run", *args)

    assert done.returncode == 2
    assert "cannot install" in done.stderr
    assert "remedy:" in done.stderr
    assert "+ " not in done.stdout


@pytest.mark.parametrize("args", [["--nope"], ["--prefix"], ["--prefix", "relative"]])
def test_wrong_usage_of_the_uninstaller_ends_with_2_and_a_remedy(args: list[str]) -> None:
    done = script("uninstall.sh", "--dry-run", *args)

    assert done.returncode == 2
    assert "cannot uninstall" in done.stderr
    assert "+ " not in done.stdout


def test_the_ports_of_renters_are_reserved_next_to_what_is_reserved_already(prefix: Path, wheel: Path) -> None:
    kernel = prefix / "proc/sys/net/ipv4/ip_local_reserved_ports"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("8080,41090-41199\n")
    file = prefix / "etc/sysctl.d/99-z-kaalia-ports.conf"

    assert install(prefix, wheel, "--ports", "41000-41099").returncode == 0
    written = file.read_text()
    assert "\nnet.ipv4.ip_local_reserved_ports = 8080,41000-41199\n" in written
    kernel.write_text("8080,41000-41199\n")  # as after a boot
    assert install(prefix, wheel).returncode == 0
    assert file.read_text() == written, "repeating changes nothing"

    config = prefix / "etc/kaalia/kaalia.yaml"
    config.write_text(config.read_text().replace("41000-41099", "42000-42099"))
    assert install(prefix, wheel).returncode == 0
    assert "= 8080,41090-41199,42000-42099\n" in file.read_text(), "the range is that of the configuration"
    assert script("uninstall.sh", "--prefix", str(prefix)).returncode == 0
    assert not file.exists()


@pytest.mark.parametrize(
    ("one", "sign", "other", "result"),
    [
        ("", "+", "40000-40799", "40000-40799"),
        ("8080,40100-41000", "+", "40000-40799", "8080,40000-41000"),
        ("8080,40000-41000", "-", "40000-40799", "8080,40800-41000"),
        ("1-3", "-", "1-3", ""),
        ("65535", "+", "1,2", "1-2,65535"),
    ],
)
def test_sets_of_ports_are_joined_and_taken_apart(one: str, sign: str, other: str, result: str) -> None:
    command = '. "$1"; port_set "$2" "$3" "$4"'
    done = subprocess.run(
        ["bash", "-c", command, "test", ROOT / "scripts/steps.sh", one, sign, other],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert done.stdout == f"{result}\n"


def docker_that_says(folder: Path, text: str, code: int = 0) -> str:
    """A PATH whose `docker` answers like this."""
    (folder / "bin").mkdir(parents=True)
    docker = folder / "bin" / "docker"
    docker.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
    docker.chmod(0o755)
    return f"{docker.parent}:{os.environ['PATH']}"


def uninstall_beside_docker(tmp_path: Path, path: str, *args: str) -> Done:
    """Uninstall where the configured engine has a socket."""
    prefix = tmp_path / "root"
    python = prefix / "opt/kaalia/current/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.write_text(f"#!/bin/sh\necho unix://{tmp_path}/docker.sock\n")
    python.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        return script("uninstall.sh", "--prefix", str(prefix), *args, PATH=path)


def test_uninstalling_is_refused_while_rented_containers_run(tmp_path: Path) -> None:
    path = docker_that_says(tmp_path, "0123456789ab")

    refused = uninstall_beside_docker(tmp_path, path)
    assert refused.returncode == 1
    assert "1 rented container(s) run on this machine" in refused.stderr
    assert (tmp_path / "root/opt/kaalia").exists()

    (tmp_path / "docker.sock").unlink()
    forced = uninstall_beside_docker(tmp_path, path, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "run on: 0123456789ab" in forced.stdout
    assert not (tmp_path / "root/opt/kaalia").exists()


def test_uninstalling_is_refused_when_docker_cannot_be_asked(tmp_path: Path) -> None:
    refused = uninstall_beside_docker(tmp_path, docker_that_says(tmp_path, "permission denied", 1))

    assert refused.returncode == 1
    assert "permission denied" in refused.stderr
    assert (tmp_path / "root/opt/kaalia").exists()

    (tmp_path / "docker.sock").unlink()
    path = docker_that_says(tmp_path / "again", "permission denied", 1)
    forced = uninstall_beside_docker(tmp_path, path, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "note: Docker cannot be asked whether rented containers run: permission denied" in forced.stdout


def test_uninstalling_says_what_it_leaves_in_docker(tmp_path: Path) -> None:
    """Containers of kaalia's own that are no rental, and stopped ones, are no reason to refuse."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    running, all_of_them = '*"ps --quiet"*io.kaalia.contract) ;;', '*"ps --all --quiet"*) echo a; echo b;;'
    answers = f'case "$*" in {running} {all_of_them} *network*) echo c;; esac'
    docker.write_text(f"#!/bin/sh\n{answers}\n")
    docker.chmod(0o755)

    done = uninstall_beside_docker(tmp_path, f"{docker.parent}:{os.environ['PATH']}")

    assert done.returncode == 0, done.stderr
    assert "left in Docker: 2 container(s), 1 network(s) of kaalia; see: docker ps --all --filter label=" in done.stdout


def test_what_is_removed_from_docker_is_the_machine_s_own_by_its_key(tmp_path: Path) -> None:
    text = (ROOT / "uninstall.sh").read_text()
    function = text[text.index("machine_key()") : text.index("refuse_while_rented()")]
    python = tmp_path / "opt/current/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "kaalia.yaml").write_text(f"state_dir: {tmp_path}\n")

    def told() -> str:
        steps = f"opt={tmp_path}/opt etc={tmp_path}\n{function}\nmachine_key"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", steps], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    before = told()
    key = Ed25519PrivateKey.generate()
    (tmp_path / "identity.pem").touch(0o600)
    (tmp_path / "identity.pem").write_bytes(signature.private_pem(key))

    assert (before, told()) == ("", signature.key_id(key))
    assert machine_name(7, told()).endswith(f"@{told()}"), "as labels have it"


@pytest.mark.parametrize(("running", "is_kept"), [("0123456789ab", True), ("", False)])
def test_what_runs_on_keeps_its_network_and_is_told_so(tmp_path: Path, running: str, is_kept: bool) -> None:
    """The functions alone: the whole script would touch this machine's firewall."""
    text = (ROOT / "uninstall.sh").read_text()
    functions = text[text.index("keep_network()") : text.index("# Objects of kaalia")]
    steps = f"prefix=; running={running}; remove_firewall() {{ echo removed; }}\n{functions}\nremove_walls"

    done = subprocess.run(["bash", "-euo", "pipefail", "-c", steps], check=True, capture_output=True, text=True)

    assert ("kept: the chains KAALIA-* of the firewall" in done.stdout) is is_kept
    assert ("removed" in done.stdout) is not is_kept


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["kaalia.service", "kaalia-marketplace.service", "kaalia-relay.service"])
def test_systemd_understands_the_unit(tmp_path: Path, name: str) -> None:
    # The program is not installed here: any existing one stands for it.
    text = (ROOT / "systemd" / name).read_text()
    for program in ("/opt/kaalia/current/bin/python", "/opt/kaalia/current/bin/kaalia", "/usr/bin/nvidia-modprobe"):
        text = text.replace(program, "/bin/true")
    text = text.replace("/sbin/modprobe", "/bin/true")
    (tmp_path / name).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_prepares_what_the_firewall_needs_before_its_sandbox() -> None:
    """The older iptables wants its lock file, and loads modules itself, which the sandbox forbids."""
    lines = (ROOT / "systemd/kaalia.service").read_text().splitlines()
    before = [line for line in lines[: lines.index("PrivateTmp=yes")] if line.startswith("ExecStartPre=-+")]
    (modules,) = [line.split()[3:] for line in before if "/sbin/modprobe" in line]
    reach = Reach(bits_per_s=8_000_000)
    four = rules.walls(Family.IPV4, rules.names("7@0"), reach, "10.214.0.0/16", ["10.0.0.1"], [ENCLOSURE])
    both = replace(ENCLOSURE, subnet6="fd00::/64")
    six = rules.walls(Family.IPV6, rules.names("7@0"), reach, "fd00::/36", ["fd01::1"], [both])
    words = [word for chains in (four, six) for chain in chains.values() for rule in chain for word in pairwise(rule)]
    wanted = {match for flag, match in words if flag == "-m"} - {"tcp", "udp", "icmp6"}

    assert "ExecStartPre=-+/usr/bin/touch /run/xtables.lock" in before
    assert {f"xt_{one}" for one in wanted} <= set(modules)
    assert {"ip_tables", "ip6_tables", "iptable_nat", "nf_conntrack", "sch_tbf"} <= set(modules)
    assert {"xt_nat", "xt_MASQUERADE"} <= set(modules), "of published ports"
    assert {"ip6table_filter", "ip6table_mangle", "ip6table_nat"} <= set(modules)


def test_the_unit_lets_the_daemon_read_the_kernels_log() -> None:
    """kernel.dmesg_restrict is 1 on Debian and Ubuntu: being root is not enough there."""
    unit = (ROOT / "systemd/kaalia.service").read_text()
    rights = [line.partition("=")[2].split() for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]

    assert "CAP_SYSLOG" in [one for line in rights for one in line]
    assert "ProtectKernelLogs=yes" not in unit


@pytest.mark.skipif(not is_possible(), reason="needs a network namespace: run scripts/test as root")
@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_uninstalling_takes_the_walls_down_and_nothing_else(program: str) -> None:
    steps = f". {ROOT}/scripts/steps.sh; dry_run=no; doing=uninstall; remove_firewall"
    theirs = ["-A PREROUTING -p udp -j THEIRS", "-A THEIRS -j ACCEPT"]
    ours = ["-N KAALIA-A", "-N KAALIA-B", "-A KAALIA-A -i br-1 -g KAALIA-B", "-I PREROUTING -j KAALIA-A"]
    with own_network():
        for rule in ["-N THEIRS", *theirs, *ours]:
            subprocess.run([program, "-t", "mangle", *rule.split()], check=True)
        for _ in range(2):
            subprocess.run(["bash", "-euo", "pipefail", "-c", steps], check=True)
        left = subprocess.run([f"{program}-save", "-t", "mangle"], check=True, capture_output=True, text=True).stdout

    assert [line for line in left.splitlines() if line.startswith("-A")] == theirs
    assert "KAALIA" not in left
