import asyncio
import os
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kaalia.errors import ConfigError, KaaliaError
from kaalia.marketplace import keys, run
from kaalia.marketplace.db.engine import DATABASE_FILE
from kaalia.wire import signature
from tests.support.clock import FakeClock


@pytest.mark.parametrize(
    ("listen", "host", "port", "loopback"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("[::1]:0", "::1", 0, True),
        ("localhost:80", "localhost", 80, True),
        ("0.0.0.0:443", "0.0.0.0", 443, False),
        ("192.0.2.1:443", "192.0.2.1", 443, False),
    ],
)
def test_addresses(listen: str, host: str, port: int, loopback: bool) -> None:
    address = run.parse_address(listen)

    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)


@pytest.mark.parametrize("listen", ["", "8000", ":8000", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen_invalid"):
        run.parse_address(listen)


async def served(listen: str, folder: Path, tls: run.TlsFiles | None = None) -> None:
    await run.serve(listen, folder, on_ready=lambda _: None, tls=tls)


async def test_plain_http_stays_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls_required"):
        await served("0.0.0.0:0", tmp_path)


async def test_a_wildcard_needs_a_public_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_url_required"):
        await run.serve("0.0.0.0:0", tmp_path, on_ready=lambda _: None, behind_tls_proxy=True)


async def test_a_busy_address_is_named_with_its_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            await served(f"127.0.0.1:{port}", tmp_path)

    assert caught.value.code == "address_in_use"
    assert str(port) in caught.value.problem.message
    assert str(port) in caught.value.problem.remedy


async def test_an_address_of_somebody_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="address_invalid"):
        await run.serve("192.0.2.1:0", tmp_path, on_ready=lambda _: None, behind_tls_proxy=True)


async def test_wrong_tls_files(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="tls_invalid"):
        await served("127.0.0.1:0", tmp_path, run.TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_a_signal(tmp_path: Path, number: int) -> None:
    ready: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.ensure_future(run.serve("127.0.0.1:0", tmp_path / "data", on_ready=ready.put_nowait))
    url = await asyncio.wait_for(ready.get(), 20)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v0/gpu_names/unique/") as reply:
        status = reply.status

    os.kill(os.getpid(), number)
    await asyncio.wait_for(serving, 30)

    assert status == 200
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    assert set(modes) >= {keys.KEY_FILE, DATABASE_FILE}
    assert set(modes.values()) == {0o600}
    with pytest.raises(OSError, match=r"refused|Connect"):
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 1)


async def test_serves_tls(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    trust = ssl.create_default_context(cafile=str(tls.certificate))
    ready: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    serving = asyncio.ensure_future(
        run.serve("localhost:0", tmp_path / "data", on_ready=ready.put_nowait, tls=tls, stop=stop)
    )
    url = await asyncio.wait_for(ready.get(), 20)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v0/none", ssl=trust) as reply:
        status = reply.status

    stop.set()
    await asyncio.wait_for(serving, 30)

    assert url.startswith("https://localhost:")
    assert status == 404


def self_signed(folder: Path) -> run.TlsFiles:
    """A certificate for localhost that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = run.TlsFiles(folder / "cert.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


async def test_epoch_and_key_outlive_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    async with run.open_context(tmp_path, "http://x/", clock) as first:
        pass
    clock.advance(3600)
    async with run.open_context(tmp_path, "http://x", clock) as second:
        pass
    (tmp_path / "marketplace.db").unlink()
    async with run.open_context(tmp_path, "http://x", clock) as third:
        pass

    assert first.settings.public_url == "http://x"
    assert second.epoch == first.epoch
    assert third.epoch > first.epoch
    assert signature.key_id(second.signing_key) == signature.key_id(first.signing_key)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.open_key(tmp_path)
    (tmp_path / keys.KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="signing_key_exposed"):
        keys.open_key(tmp_path)


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    keys.open_key(tmp_path)
    (tmp_path / keys.KEY_FILE).write_bytes(b"damaged")
    with pytest.raises(KaaliaError, match="key_invalid"):
        keys.open_key(tmp_path)

    assert (tmp_path / keys.KEY_FILE).read_bytes() == b"damaged"
    assert [path.name for path in tmp_path.iterdir()] == [keys.KEY_FILE]


async def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data_dir_invalid"):
        async with run.open_database(tmp_path / "file"):
            pass
