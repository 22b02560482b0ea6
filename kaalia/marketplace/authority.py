"""The marketplace's own certificate authority: renters install its root once, and trust what instances show by it.

It signs for keys that machines made, and for the addresses to which the marketplace itself sends renters: a machine's
own only where it is seen to come from there. The root's key is kept sealed and leaves the process never.
"""

import ipaddress
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from kaalia.contracts import certificate as rules
from kaalia.contracts.contract import Contract
from kaalia.marketplace import machines, relays, sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.authority_tables import authority
from kaalia.marketplace.db.relay_tables import relays as relay_table
from kaalia.marketplace.db.tables import contracts
from kaalia.model.certificate import Certificate
from kaalia.prober import bounds
from kaalia.prober.bounds import Origin
from kaalia.wire import document
from kaalia.wire.error import ApiError

log = logging.getLogger(__name__)

ROOT_LIFE = timedelta(days=20 * 365)
BACKDATED = timedelta(hours=1)
"""For browsers whose clock is behind."""
_ROW = 1
_LOCALHOST = "localhost"
_EVERYWHERE = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
_COMMON_NAME_MAX = 64


async def root(context: Context) -> str:
    """The root certificate, PEM; made at the first question. Raises ApiError 500 `authority_sealed`."""
    certificate, _ = await _opened(context)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


async def certify(
    context: Context, machine_id: int, contract_id: int, public_key: str, origin: Origin | None
) -> Certificate:
    """A certificate for one of the machine's own live contracts. `origin`: of its signed request, None: unknown.

    Raises ApiError 404 `contract_unknown`, 400 `certificate_unneeded` or `key_invalid`, 500 `authority_sealed`.
    """
    key = _public_key(public_key)
    async with context.engine.begin() as tx:
        names = await _names(tx, machine_id, contract_id, origin)
    signer = await _opened(context)
    allowed = within(signer[0], names)
    if left_out := set(names) - set(allowed):
        log.warning("authority: %s is not certified: the root is older than that relay; see docs/jupyter.md", *left_out)
    return _signed(signer, contract_id, key, allowed, context.clock.now(), context.settings.certificate_life)


async def _names(tx: AsyncConnection, machine_id: int, contract_id: int, origin: Origin | None) -> tuple[str, ...]:
    mine = sa.and_(contracts.c.id == contract_id, contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None))
    text = await tx.scalar(sa.select(contracts.c.document).where(mine))
    machine = await machines.get(tx, machine_id)
    if text is None or machine is None:
        raise ApiError(404, "contract_unknown", f"cannot find contract {contract_id} of machine {machine_id}")
    if not rules.is_wanted(document.decode(Contract, text)):
        message = f"cannot certify contract {contract_id}: it has no Jupyter"
        raise ApiError(400, "certificate_unneeded", message, remedy="rent with runtype jupyter")
    relayed = (await relays.reached_by(tx, [contract_id])).get(contract_id)
    public_ip = None if machine.report is None else machine.report.network.public_ip
    if not _is_proven(public_ip, origin):
        public_ip = None
    return rules.names(public_ip, None if relayed is None else relayed.host)


def _is_proven(public_ip: str | None, origin: Origin | None) -> bool:
    """A machine on the marketplace's own machine, which comes by loopback, has all its addresses."""
    if public_ip is None or origin is None:
        return False
    is_here = origin.is_direct and ipaddress.ip_address(origin.address).is_loopback
    if is_here and bounds.is_own(ipaddress.ip_address(public_ip)):
        return True
    return rules.is_proven(public_ip, origin.address, is_direct=origin.is_direct)


def _public_key(text: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, TypeError) as error:
        raise ApiError(400, "key_invalid", "cannot certify the key: it is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ApiError(400, "key_invalid", "cannot certify the key: it is not of the curve P-256")
    return key


async def _opened(context: Context) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Root and key, made once, whoever of several processes comes first."""
    try:
        async with context.engine.begin() as tx:
            row = (await tx.execute(sa.select(authority))).one_or_none()
            if row is None:
                certificate, key = _made(context, list(await tx.scalars(sa.select(relay_table.c.host))))
                sealed = sealing.seal(context.signing_key, _key_pem(key), sealing.AUTHORITY)
                text = certificate.public_bytes(serialization.Encoding.PEM).decode()
                await tx.execute(sa.insert(authority).values(only_row=_ROW, certificate=text, sealed_key=sealed))
                return certificate, key
    except IntegrityError:
        async with context.engine.begin() as tx:
            row = (await tx.execute(sa.select(authority))).one()
    clear = sealing.unseal(context.signing_key, row.sealed_key, sealing.AUTHORITY)
    loaded = None if clear is None else serialization.load_pem_private_key(clear, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ApiError(
            500,
            "authority_sealed",
            "cannot use the certificate authority: its key was sealed with another signing key",
            remedy="restore signing_key.pem of the data directory; or delete the row of the table authority, "
            "and renters install the new root",
        )
    return x509.load_pem_x509_certificate(row.certificate.encode()), loaded


def _made(context: Context, relay_hosts: list[str]) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    host = URL(context.settings.public_url).raw_host or _LOCALHOST
    name = _name(f"kaalia root of {host}")
    now = context.clock.now()
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, name, key.public_key(), now - BACKDATED, now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_bounds([host, *relay_hosts]), critical=True)
        .add_extension(identifier, critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def _signed(
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    contract_id: int,
    key: ec.EllipticCurvePublicKey,
    names: tuple[str, ...],
    now: datetime,
    life: timedelta,
) -> Certificate:
    above, above_key = signer
    begins_at = now.replace(microsecond=0)
    ends_at = min(begins_at + life, above.not_valid_after_utc)
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key())
    made = (
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
    chain = made.public_bytes(serialization.Encoding.PEM).decode()
    return Certificate(contract_id, chain, names, begins_at, ends_at)


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
    `hosts`: the marketplace's own and its relays'; a name stands for all below it too.
    """
    names = dict.fromkeys([_LOCALHOST, *(host.lower().rstrip(".") for host in hosts if not _is_address(host))])
    permitted = [*(x509.IPAddress(net) for net in _EVERYWHERE), *(x509.DNSName(name) for name in names)]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def within(root: x509.Certificate, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the root may sign for: one other name makes a whole certificate invalid."""
    permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    zones = [one.value for one in permitted if isinstance(one, x509.DNSName)]
    return tuple(name for name in names if _is_address(name) or any(f".{name}".endswith(f".{zone}") for zone in zones))


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
