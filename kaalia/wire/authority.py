"""A certificate authority of our own: its root, and what Jupyter shows to browsers, which trust nothing but the root.

A marketplace keeps one for its renters; a machine that tests itself makes one for a few minutes.
"""

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kaalia.model.certificate import Certificate

ROOT_LIFE = timedelta(days=20 * 365)
BACKDATED = timedelta(hours=1)
"""For browsers whose clock is behind."""
_LOCALHOST = "localhost"
_EVERYWHERE = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
_COMMON_NAME_MAX = 64

Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
"""The root, and its key."""


def made(host: str, relay_hosts: Iterable[str], now: datetime) -> Signer:
    """A new root, bounded to addresses, `host` and `relay_hosts`, and all below these."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"kaalia root of {host}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, name, key.public_key(), now - BACKDATED, now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_bounds([host, *relay_hosts]), critical=True)
        .add_extension(identifier, critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def signed(
    signer: Signer,
    contract_id: int,
    key: ec.EllipticCurvePublicKey,
    names: tuple[str, ...],
    now: datetime,
    life: timedelta,
) -> Certificate:
    """For a contract's own key. `names`: those that the root is bounded to, see `within`."""
    above, above_key = signer
    begins_at = now.replace(microsecond=0)
    ends_at = min(begins_at + life, above.not_valid_after_utc)
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key())
    leaf = (
        _builder(
            _name(f"instance C.{contract_id}"),  # no host name, which OpenSSL would hold against the bounds
            above.subject,
            key,
            begins_at - BACKDATED,
            ends_at,
        )
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority_id, critical=False)
        .sign(above_key, hashes.SHA256())
    )
    chain = leaf.public_bytes(serialization.Encoding.PEM).decode()
    return Certificate(contract_id, chain, names, begins_at, ends_at)


def pem(root: x509.Certificate) -> str:
    """The root as everybody installs it."""
    return root.public_bytes(serialization.Encoding.PEM).decode()


def within(root: x509.Certificate, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the root may sign for: one other name makes a whole certificate invalid."""
    permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    zones = [one.value for one in permitted if isinstance(one, x509.DNSName)]
    return tuple(name for name in names if _is_address(name) or any(f".{name}".endswith(f".{zone}") for zone in zones))


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins_at: datetime, ends_at: datetime
) -> x509.CertificateBuilder:
    started = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
    return started.serial_number(x509.random_serial_number()).not_valid_before(begins_at).not_valid_after(ends_at)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:_COMMON_NAME_MAX])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _bounds(hosts: Iterable[str]) -> x509.NameConstraints:
    """For which names the root may sign, so that who steals its key is no other site to those who trust it.

    Any address, since machines come with theirs; of names only ours: RFC 5280, 4.2.1.10.
    `hosts`: a name stands for all below it too.
    """
    names = dict.fromkeys([_LOCALHOST, *(host.lower().rstrip(".") for host in hosts if not _is_address(host))])
    permitted = [*(x509.IPAddress(net) for net in _EVERYWHERE), *(x509.DNSName(name) for name in names)]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
