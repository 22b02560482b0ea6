"""`kaalia marketplace relay`: add, list, forget a key, remove, and what cannot be meant."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ADD = ("add", "west", "--address", "relay.example:2222", "--ports", "20000-20063")


def relay(data: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaalia.cli.main", "marketplace", "relay", *args, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_relay_is_added_shown_and_removed(tmp_path: Path) -> None:
    added = relay(tmp_path, *ADD)
    (row,) = json.loads(relay(tmp_path, "list", "--json").stdout)
    shown = relay(tmp_path, "list").stdout
    forgotten = relay(tmp_path, "forget-key", "west")
    removed = relay(tmp_path, "remove", "west")

    assert len(added.stdout.split()) == 1, "the token, and nothing else"
    assert added.stdout.strip() not in json.dumps(row)
    assert (row["name"], row["address"], row["ports"]) == ("west", "relay.example:2222", "20000-20063")
    assert row["seen_at"] is row["host_key"] is None
    assert "never" in shown
    assert (forgotten.returncode, removed.returncode) == (0, 0)
    assert json.loads(relay(tmp_path, "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("add", "We st", *ADD[2:]), "relay_invalid"),
        ((*ADD[:3], "0.0.0.0:2222", *ADD[4:]), "relay_address_invalid"),
        ((*ADD[:3], "relay.example:0", *ADD[4:]), "relay_address_invalid"),
        ((*ADD[:3], "-oProxyCommand=x:22", *ADD[4:]), "relay_invalid"),
        ((*ADD[:5], "20063-20000"), "relay_ports_invalid"),
        ((*ADD[:3], "relay.example:20001", *ADD[4:]), "relay_ports_invalid"),
        (("forget-key", "east"), "relay_unknown"),
        (("remove", "east"), "relay_unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, args: tuple[str, ...], code: str) -> None:
    done = relay(tmp_path, *args)

    assert code in done.stderr, done.stderr
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_name_is_given_once(tmp_path: Path) -> None:
    relay(tmp_path, *ADD)

    assert "relay_exists" in relay(tmp_path, *ADD).stderr
