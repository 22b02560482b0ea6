"""The access kit of this checkout, which scripts/setup builds: in the sandbox is no network to build it with."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.runtime.container.kit import AccessFolders
from kaalia.wire import signature

KITS = Path(__file__).parents[2] / ".cache" / "kit"


def access_in(folder: Path, kits: Path = KITS) -> AccessFolders:
    """Contracts' folders below `folder`; host keys that follow from the contract's number, as the daemon's do."""
    return AccessFolders(kits, folder / "access", host_key, tls_key)


def host_key(contract_id: int) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(f"host key {contract_id}".encode())
    return Ed25519PrivateKey.from_private_bytes(digest.finalize()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def tls_key(contract_id: int) -> bytes:
    machine = Ed25519PrivateKey.from_private_bytes(bytes(32))
    return signature.tls_private_pem(signature.tls_key(machine, contract_id))


def chain(contract_id: int) -> str:
    """A certificate for that key, by itself, for as long as a test takes."""
    key = serialization.load_pem_private_key(tls_key(contract_id), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"C.{contract_id}")])
    begun = datetime.now(UTC) - timedelta(minutes=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(begun).not_valid_after(begun + timedelta(hours=1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
