"""The authority: what it signs holds for browsers, and it signs nothing else."""

import contextlib
import ipaddress
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from kaalia.contracts.certificate import LOCAL_NAMES
from kaalia.contracts.contract import Desired
from kaalia.marketplace import authority, machines, relay_list
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.authority_tables import authority as table
from kaalia.model.certificate import Certificate
from kaalia.model.machine import PortRange
from kaalia.model.workload import LaunchMode
from kaalia.wire import authority as signing
from kaalia.wire import document, signature
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import CertificateRequest
from tests.marketplace.liar import Liar, open_liar, other_machine
from tests.marketplace.support import open_context
from tests.support.machines import machine_report
from tests.sync.support import SPEC, contract, rent, write_contract

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = signature.tls_public_pem(KEY)
DAY = timedelta(days=1)
HERE = "8.8.8.8"
JUPYTER = replace(SPEC, launch_mode=LaunchMode.JUPYTER)


@asynccontextmanager
async def notebook(folder: Path) -> AsyncIterator[tuple[Liar, int]]:
    """A machine that has reported the public address HERE, and its contract with Jupyter."""
    async with open_liar(folder, behind_proxy=True) as liar:
        report = machine_report()
        async with liar.market.context.engine.begin() as tx:
            await machines.put_report(
                tx, liar.machine_id, replace(report, network=replace(report.network, public_ip=HERE))
            )
        yield liar, await rent(liar.market.context, liar.machine_id, spec=JUPYTER)


async def ask(
    liar: Liar, contract_id: int, public_key: str = PUBLIC, origin: str = HERE
) -> tuple[int, str, Certificate | None]:
    """Status, code and the certificate. The marketplace's own proxy says that the request comes from `origin`."""
    target, body = liar.path(f"contracts/{contract_id}/certificate"), document.encode(CertificateRequest(public_key))
    headers = {**liar.sign("POST", target, body.encode()), "X-Forwarded-For": origin}
    reply = await liar.raw("POST", target, headers, body.encode())
    if reply.status != 200:
        return reply.status, reply.code, None
    return reply.status, "", document.decode(Certificate, reply.body)


async def root_of(liar: Liar) -> x509.Certificate:
    answer = await liar.market.anyone.call("GET", "/static/jvastai_root.cer")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/x-x509-ca-cert")
    return x509.load_pem_x509_certificate(str(answer.body).encode())


async def test_what_is_signed_holds_by_the_root_that_anyone_gets(tmp_path: Path) -> None:
    async with notebook(tmp_path) as (liar, contract_id):
        _, _, certificate = await ask(liar, contract_id)
        root, again = await root_of(liar), await root_of(liar)
        now = liar.market.clock.now()

    assert certificate is not None
    assert root == again
    made = x509.load_pem_x509_certificate(certificate.chain.encode())
    assert made.public_key() == KEY.public_key()
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    told = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    assert sorted(told) == sorted(certificate.names)
    assert certificate.names[0] == HERE
    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.ends_at - certificate.begins_at == timedelta(days=90)
    policy = PolicyBuilder().store(Store([root])).time(now)
    for name in certificate.names:
        subject = x509.DNSName(name) if name == "localhost" else x509.IPAddress(ipaddress.ip_address(name))
        assert policy.build_server_verifier(subject).verify(made, [])[0] == made
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("bank.example")).verify(made, [])
    ssl.create_default_context(cadata=root.public_bytes(serialization.Encoding.PEM).decode())


@pytest.mark.parametrize("origin", ["1.1.1.1", "192.168.1.1", "unknown"])
async def test_an_address_that_the_machine_does_not_come_from_is_not_certified(tmp_path: Path, origin: str) -> None:
    async with notebook(tmp_path) as (liar, contract_id):
        status, _, certificate = await ask(liar, contract_id, origin=origin)

    assert status == 200
    assert certificate is not None
    assert certificate.names == LOCAL_NAMES


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("localhost", True),
        ("8.8.8.8", True),
        ("2001:4860::8888", True),
        ("relay.kaalia.example", True),
        ("relay.elsewhere.example", True),
        ("bank.example", False),
        ("example", False),
    ],
)
async def test_not_even_the_key_of_the_root_signs_for_other_sites(tmp_path: Path, name: str, holds: bool) -> None:
    async with open_context(tmp_path, public_url="https://kaalia.example:8090") as context:
        await relay_list.add(context.engine, "west", "relay.elsewhere.example", 2222, PortRange(20000, 20031))
        signer = await authority._opened(context)
        made = signing.signed(signer, 51, KEY.public_key(), (name, *LOCAL_NAMES), context.clock.now(), DAY)
        now = context.clock.now()
    file = tmp_path / "leaf.pem"
    file.write_text(made.chain)
    file.with_name("root.pem").write_bytes(signer[0].public_bytes(serialization.Encoding.PEM))
    leaf, policy = x509.load_pem_x509_certificate(made.chain.encode()), PolicyBuilder().store(Store([signer[0]]))
    verifier = policy.time(now).build_server_verifier(x509.DNSName("localhost"))

    openssl = subprocess.run(
        ["openssl", "verify", "-attime", str(int(now.timestamp())), "-CAfile", file.with_name("root.pem"), file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (openssl.returncode == 0) is holds, openssl.stderr
    assert holds or "permitted subtree violation" in openssl.stderr
    with contextlib.nullcontext() if holds else pytest.raises(VerificationError):
        verifier.verify(leaf, [])


async def test_a_relay_that_the_root_may_not_name_is_left_out(tmp_path: Path) -> None:
    """One name beyond the root's bounds would make the whole certificate worthless."""
    async with open_context(tmp_path) as context:
        root, _ = await authority._opened(context)

    assert signing.within(root, ("relay.example", "8.8.8.8", *LOCAL_NAMES)) == ("8.8.8.8", *LOCAL_NAMES)


async def test_only_the_own_living_contracts_with_jupyter_are_certified(tmp_path: Path) -> None:
    async with notebook(tmp_path) as (liar, contract_id):
        context = liar.market.context
        plain = await rent(context, liar.machine_id)
        over = await rent(context, liar.machine_id, spec=JUPYTER)
        async with context.engine.begin() as tx:
            rows = tables.contracts
            await tx.execute(sa.update(rows).where(rows.c.id == over).values(ended_at=1.0))
        other = await other_machine(liar)
        answers = [await ask(liar, plain), await ask(liar, over), await ask(liar, 999), await ask(other, contract_id)]

    assert [(status, code) for status, code, _ in answers] == [
        (400, "certificate_unneeded"),
        (404, "contract_unknown"),
        (404, "contract_unknown"),
        (404, "contract_unknown"),
    ]


@pytest.mark.parametrize(
    "key",
    [
        "x",
        signature.tls_private_pem(KEY).decode(),
        signature.tls_public_pem(ec.generate_private_key(ec.SECP384R1())),
        signature.generate_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    ],
)
async def test_other_keys_are_refused(tmp_path: Path, key: str) -> None:
    async with notebook(tmp_path) as (liar, contract_id):
        status, code, _ = await ask(liar, contract_id, key)

    assert (status, code) == (400, "key_invalid")


async def test_the_key_at_rest_opens_by_the_signing_key_only(tmp_path: Path) -> None:
    async with notebook(tmp_path) as (liar, contract_id):
        context = liar.market.context
        await root_of(liar)
        async with context.engine.begin() as tx:
            sealed = (await tx.execute(sa.select(table))).one().sealed_key
        await write_contract(context, liar.machine_id, contract(contract_id, spec=JUPYTER, desired=Desired.STOPPED))
        status, _, _ = await ask(liar, contract_id)
        context.signing_key = signature.generate_key()
        with pytest.raises(ApiError) as refused:
            await authority.root(context)

    assert status == 200
    assert b"PRIVATE" not in sealed
    assert refused.value.code == "authority_sealed"
