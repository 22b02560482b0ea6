"""Certificate authorities: none are read at import; those of the system, or the environment, when they are needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaalia.sync import trust

IMPORTED = """
import os
from kaalia.sync import trust
with trust.unread():
    import aiohttp.connector
read_at_import = aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"]
print(read_at_import, trust.system_context().cert_store_stats()["x509"], os.environ.get("SSL_CERT_DIR"))
"""


def make_authority(folder: Path) -> Path:
    certificate = folder / "ca.pem"
    command = "openssl req -x509 -newkey ed25519 -nodes -days 1 -subj /CN=kaalia-test"
    made = [*command.split(), "-keyout", str(folder / "key.pem"), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    return certificate


def test_authorities_are_read_when_a_connection_needs_them(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    environment = {**os.environ, "SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", IMPORTED], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "1", str(tmp_path)]


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/somewhere/ca.pem")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)

    with trust.unread():
        assert os.environ["SSL_CERT_FILE"] == os.devnull

    assert os.environ["SSL_CERT_FILE"] == "/somewhere/ca.pem"
    assert "SSL_CERT_DIR" not in os.environ
