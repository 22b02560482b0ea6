"""Secrets come from files that nobody else reads; signatures are those of Standard Webhooks."""

import os
from pathlib import Path

import pytest

from kaalia.errors import ConfigError
from kaalia.notify.secret import Signer, login
from tests.support.owner import secret_file

HMAC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ED_SECRET = "whsk_" + "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
"""The seed of RFC 8032's first test."""


def test_the_signature_is_that_of_the_standard(tmp_path: Path) -> None:
    signer = Signer(secret_file(tmp_path / "s", HMAC_SECRET))

    signed = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signer.public_key == ""


def test_the_public_part_of_a_key_is_told(tmp_path: Path) -> None:
    signer = Signer(secret_file(tmp_path / "s", ED_SECRET, "more"))

    assert signer.public_key == "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert signer.sign("a", 1, b"{}").startswith("v1a,")


@pytest.mark.parametrize(
    "text", ["", "hush-hush-hush", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", "whsk_c2hvcnQ=", "WHSEC_" + "A" * 32]
)
def test_what_is_no_secret_is_refused_and_never_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Signer(secret_file(tmp_path / "s", text))

    assert caught.value.code in ("notify_secret_invalid", "notify_secret_file")
    assert "hush" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path / "s", HMAC_SECRET)
    path.chmod(mode)

    with pytest.raises(ConfigError, match="others can read it") as caught:
        Signer(path)

    assert caught.value.problem.remedy == f"run: chmod 600 {path}"


def test_a_file_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError) as caught:
            Signer(path)
        assert caught.value.code == "notify_secret_file"


def test_a_login_is_two_lines(tmp_path: Path) -> None:
    assert login(secret_file(tmp_path / "a", "me@example.com", "hush-hush")) == ("me@example.com", "hush-hush")
    with pytest.raises(ConfigError):
        login(secret_file(tmp_path / "b", "me@example.com"))
