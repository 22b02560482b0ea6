"""What is refused before a relay starts, by the command as people type it."""

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kaalia.errors import ConfigError
from kaalia.relay.options import check_address, find_sshd, login_user


def serve(folder: Path, *more: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    token = folder / "token"
    token.write_text("secret\n")
    plain = {
        "--name": "west",
        "--ports": "20000-20031",
        "--listen": "127.0.0.1:20500",
        "--marketplace": "http://127.0.0.1:1",
        "--token-file": str(token),
        "--data": str(folder / "data"),
    }
    options = {**plain, **dict(zip(more[::2], more[1::2], strict=True))}
    words = [word for pair in options.items() for word in pair]
    return subprocess.run(
        [sys.executable, "-m", "kaalia.cli.main", "relay", "serve", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **({} if path is None else {"PATH": path})},
    )


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--ports", "20031-20000"), "relay_ports_invalid"),
        (("--ports", "80-20000"), "relay_ports_invalid"),
        (("--listen", "127.0.0.1:20003"), "relay_ports_invalid"),
        (("--listen", "here:20500"), "listen_invalid"),
        (("--listen", "127.0.0.1:0"), "listen_invalid"),
        (("--listen", "192.0.2.1:20500"), "address_invalid"),
        (("--name", "We st"), "relay_invalid"),
        (("--marketplace", "http://market.example"), "tls_required"),
        (("--token-file", "/nowhere/token"), "token_unreadable"),
        (("--user", "root"), "relay_user_invalid"),
        (("--user", "nobody-of-this-name"), "relay_user_invalid"),
        (("--data", "/proc/nowhere"), "data_dir_invalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: tuple[str, ...], code: str) -> None:
    done = serve(tmp_path, *more)

    assert f"[{code}]" in done.stderr or code in done.stderr, done.stderr
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_token_of_two_words_is_none(tmp_path: Path) -> None:
    file = tmp_path / "two"
    file.write_text("two words")

    assert "token_unreadable" in serve(tmp_path, "--token-file", str(file)).stderr


def test_a_machine_without_sshd_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_sshd(str(tmp_path), places=str(tmp_path))

    assert caught.value.code == "sshd_missing"
    assert "openssh-server" in caught.value.problem.remedy


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="another program"):
        check_address("127.0.0.1", taken.getsockname()[1])


def test_machines_log_in_as_nobody_special(monkeypatch: pytest.MonkeyPatch) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    assert login_user(None) == ("nobody" if os.geteuid() == 0 else own)

    monkeypatch.setattr("os.geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    assert login_user(None) == "nobody"
    with pytest.raises(ConfigError, match="runs as nobody"):
        login_user("daemon")
