"""The marketplace's own certificate authority: renters install its root once, and trust what instances show by it.

It signs for keys that machines made, and for the addresses to which the marketplace itself sends renters: a machine's
own only where it is seen to come from there. The root's key is kept sealed and leaves the process never.
"""

import ipaddress
import logging

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
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
from kaalia.wire import authority as signing
from kaalia.wire import document
from kaalia.wire.authority import Signer
from kaalia.wire.error import ApiError

log = logging.getLogger(__name__)

_ROW = 1
_LOCALHOST = "localhost"


async def root(context: Context) -> str:
    """The root certificate, PEM; made at the first question. Raises ApiError 500 `authority_sealed`."""
    certificate, _ = await _opened(context)
    return signing.pem(certificate)


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
    allowed = signing.within(signer[0], names)
    if left_out := set(names) - set(allowed):
        log.warning("authority: %s is not certified: the root is older than that relay; see docs/jupyter.md", *left_out)
    return signing.signed(signer, contract_id, key, allowed, context.clock.now(), context.settings.certificate_life)


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


async def _opened(context: Context) -> Signer:
    """Root and key, made once, whoever of several processes comes first."""
    try:
        async with context.engine.begin() as tx:
            row = (await tx.execute(sa.select(authority))).one_or_none()
            if row is None:
                host = URL(context.settings.public_url).raw_host or _LOCALHOST
                relay_hosts = list(await tx.scalars(sa.select(relay_table.c.host)))
                certificate, key = signing.made(host, relay_hosts, context.clock.now())
                sealed = sealing.seal(context.signing_key, _key_pem(key), sealing.AUTHORITY)
                values = {"only_row": _ROW, "certificate": signing.pem(certificate), "sealed_key": sealed}
                await tx.execute(sa.insert(authority).values(values))
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


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
