"""`kaalia support-bundle`: what helps is in it, no secret is, and it needs no daemon."""

import base64
import json
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from kaalia.cli import output
from kaalia.cli.bundle import parts as bundle
from kaalia.cli.bundle.parts import Source
from kaalia.cli.bundle.scrub import Scrubber
from kaalia.cli.commands.support_bundle import app
from kaalia.client import LocalClient
from kaalia.config import Config
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.store import conditions, contracts
from kaalia.store.database import Transaction
from kaalia.wire import signature
from tests.cli.conftest import Daemon
from tests.support.builders import build_contract
from tests.support.clock import START
from tests.support.commands import answering
from tests.support.owner import secret_file

PLANTED = {
    "environment": "hush-hush-hush",
    "password": 'Pa55-wo%rd/ü"x',
    "onstart": "wget https://files.example/hush-model.bin",
    "argument": "--hush-argument=17",
    "ssh key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHushHushHushHushHushHushHushHushHushHush me@hush",
    "webhook": "https://hooks.example/services/T0HUSH/B0HUSH",
    "webhook secret": "whsec_" + base64.b64encode(b"hush" * 8).decode(),
    "mail password": "hush-mail-password",
    "speed secret": "hush-speed-secret-1234",
    "proxy": "hush-proxy-password",
    "bearer": "hushBearer0123456789",
    "api key": "0123456789abcdefhush0123456789abcdef",
    "hugging face": "hf_HushHushHushHushHushHush",
}


def run(*args: str) -> int:
    try:
        return output.run(app, args, "kaalia support-bundle")
    except SystemExit as end:
        return int(end.code or 0)


def log_lines() -> str:
    """A log that tells everything, which the daemon's does not. What the machine does not know has a telling form."""
    known = {name: text for name, text in PLANTED.items() if name not in ("proxy", "bearer")}
    spoken = [f"2026-01-01 kaalia[1]: oops {name} was {text} there" for name, text in known.items()]
    forms = [json.dumps({"value": text}) + " " + quote(text, safe="") for text in known.values()]
    coded = [base64.b64encode(text.encode()).decode() for text in known.values()]
    return "\n".join([*spoken, *forms, *coded, f"Authorization: Bearer {PLANTED['bearer']}", "the machine is fine"])


@pytest.fixture
def planted(tmp_path: Path, rented: Daemon, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration; secrets are in every file, row and program's output that there is."""
    key = signature.private_pem(signature.generate_key()).decode()
    (tmp_path / "identity.pem").write_text(key)
    secret_file(tmp_path / "hook", PLANTED["webhook secret"])
    secret_file(tmp_path / "login", "me@example.com", PLANTED["mail password"])
    secret_file(tmp_path / "speed", PLANTED["speed secret"])
    plain = build_contract(53)
    spec = {
        "env": (("HF_TOKEN", PLANTED["hugging face"]), ("PASSWORD", PLANTED["password"]), ("K", PLANTED["api key"])),
        "onstart": PLANTED["onstart"],
        "args": (PLANTED["argument"],),
    }
    changed = type(plain.spec)(**{**{f: getattr(plain.spec, f) for f in plain.spec.__slots__}, **spec})
    wrong = Condition(
        Problem("gpu_lost", "cannot see GPU 3", evidence=f"token={PLANTED['bearer']}"), Severity.CRITICAL, "it is back"
    )

    def fill(tx: Transaction) -> None:
        fields = {f: getattr(plain, f) for f in plain.__slots__}
        contracts.upsert(tx, type(plain)(**{**fields, "spec": changed, "ssh_keys": (PLANTED["ssh key"],)}), START)
        conditions.replace(tx, "gpu", [wrong], START)

    rented.write(fill)
    answering(
        tmp_path / "bin",
        {
            "journalctl": f"{log_lines()}\n2026-01-01 NVRM: Xid (PCI:0000:65:00): 79, {key}\n",
            "systemctl": f"loaded, active; token={PLANTED['bearer']} password={PLANTED['mail password']}",
            "docker": json.dumps({"HttpProxy": f"http://me:{PLANTED['proxy']}@proxy.example", "Driver": "overlay2"}),
            "iptables-save": "*filter\n:KAALIA-FORWARD - [0:0]\n:OTHERS - [0:0]\n"
            "-A FORWARD -j KAALIA-FORWARD\n-A OTHERS -s 192.0.2.7 -j DROP\n-A KAALIA-FORWARD -j DROP\nCOMMIT\n",
            "ip6tables-save": "*filter\nCOMMIT\n",
            "nvidia-smi": f"GPU 3: ERR! {PLANTED['environment']}",
            "lsblk": "nvme0n1",
        },
        monkeypatch,
    )
    config = tmp_path / "kaalia.yaml"
    config.write_text(
        f"state_dir: {tmp_path}\nsocket: {rented.socket}\n"
        f"speed: {{peer: 'p.example:1', secret_file: {tmp_path}/speed}}\n"
        f"notify:\n  webhooks: {{a: {{url: '{PLANTED['webhook']}', secret_file: {tmp_path}/hook}}}}\n"
        f"  mails: {{b: {{host: m.example, sender: k@e.example, to: me@e.example, login_file: {tmp_path}/login}}}}\n"
    )
    return config


def content(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert all(one.isfile() and one.mode == 0o600 and ".." not in one.name for one in members)
        read = {one.name.partition("/")[2]: archive.extractfile(one) for one in members}
        return {name: file.read().decode() for name, file in read.items() if file is not None}


def leaked(text: str, key: str) -> list[str]:
    forms = {
        name: {value, json.dumps(value)[1:-1], quote(value, safe=""), base64.b64encode(value.encode()).decode()}
        for name, value in PLANTED.items()
    }
    forms["identity"] = set(key.splitlines()[1:-1])
    return [name for name, those in forms.items() if any(form in text for form in those)]


@pytest.mark.parametrize("is_up", [True, False], ids=["daemon up", "daemon down"])
def test_no_secret_is_in_it_and_what_helps_is(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_up: bool
) -> None:
    path, nowhere = tmp_path / "out.tar.gz", [] if is_up else ["--socket", str(tmp_path / "nobody")]

    code = run("--output", str(path), "--config", str(planted), *nowhere)

    shown, parts = capsys.readouterr().out, content(path)
    key = (tmp_path / "identity.pem").read_text()
    assert code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert leaked("\n".join(parts.values()) + shown, key) == []
    assert leaked(log_lines(), key), "the test plants nothing"
    assert "the machine is fine" in parts["daemon.log"]
    assert "NVRM: Xid (PCI:0000:65:00): 79" in parts["kernel.log"]
    assert "the machine is fine" not in parts["kernel.log"]
    assert json.loads(parts["doctor.json"])["open"][0]["condition"]["problem"]["code"] == "gpu_lost"
    assert len(json.loads(parts["report.json"])["gpus"]) == 8
    assert json.loads(parts["state.json"])["rows"]["contracts"] == 3
    assert json.loads(parts["config.json"])["notify"]["webhooks"]["a"]["url"] == "https://hooks.example/..."
    assert ("status.json" in parts) is is_up
    assert parts["iptables.txt"].splitlines() == [
        "*filter",
        ":KAALIA-FORWARD - [0:0]",
        "-A FORWARD -j KAALIA-FORWARD",
        "-A KAALIA-FORWARD -j DROP",
    ]
    manifest = {one["file"]: one for one in json.loads(parts["MANIFEST.json"])}
    assert set(parts) == {name for name, one in manifest.items() if not one["missing"]} | {"MANIFEST.json"}
    assert "daemon.log" in shown
    assert "sent nowhere" in shown


def test_a_file_that_exists_is_never_overwritten(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")

    assert run("--output", str(path), "--config", str(planted)) == 2

    assert path.read_text() == "mine"
    assert "bundle_not_written" in capsys.readouterr().err


def test_a_wrong_configuration_and_an_empty_machine_give_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kaalia.yaml").write_text(f"nonsense: 1\nstate_dir: {tmp_path}\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    path = tmp_path / "out.tar.gz"

    code = run("-o", str(path), "--json", "--config", str(tmp_path / "kaalia.yaml"), "--socket", str(tmp_path / "no"))

    document, parts = json.loads(capsys.readouterr().out), content(path)
    assert code == 0
    assert "config_unknown_key" in parts["config.json"]
    missing = {one["file"]: one["missing"] for one in document["content"]}
    assert "command_missing" in missing["docker-info.json"]
    assert "daemon_not_running" in missing["status.json"]
    assert not missing["versions.json"]


def test_short_and_common_words_stay_unless_their_name_says_that_they_are_secret() -> None:
    scrubber = Scrubber([("MODE", "fast"), ("DB_PASSWORD", "abcd"), ("LONG", "a-longer-text")])

    assert scrubber.clean("fast abcd a-longer-text") == "fast [removed] [removed]"


async def test_what_is_broken_leaves_the_rest_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def broken() -> str:
        raise FileNotFoundError("os-release")

    async def sound() -> str:
        return "sound"

    sources = [Source("versions.json", "", broken), Source("disks.txt", "", sound)]
    monkeypatch.setattr(bundle, "_sources", lambda *_: sources)

    found = await bundle.collect(Config(), "", LocalClient(tmp_path / "nobody"), START, 1)

    assert [(one.text, bool(one.why)) for one in found] == [(None, True), ("sound", False)]
