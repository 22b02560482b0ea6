"""Certificates: the root for anyone who wants to trust it, instances' own for their machines."""

from aiohttp import web

from kaalia.errors import KaaliaError
from kaalia.marketplace import authority
from kaalia.marketplace.routes.daemon import authenticated
from kaalia.marketplace.routing import MACHINE, PUBLIC, Call, Route
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import CertificateRequest

ROOT_FILE = "jvastai_root.cer"
"""The public API's own name of it, which renters know."""


async def root(call: Call) -> web.Response:
    """PEM, which browsers, operating systems and curl take alike."""
    headers = {"Content-Disposition": f'attachment; filename="{ROOT_FILE}"'}
    body = (await authority.root(call.context)).encode()
    return web.Response(body=body, content_type="application/x-x509-ca-cert", headers=headers)


async def certificate(call: Call) -> web.Response:
    signed = await authenticated(call)
    try:
        request = document.decode(CertificateRequest, signed.body)
    except KaaliaError as error:
        raise ApiError(400, error.code, error.problem.message) from error
    machine_id, contract_id = call.number("machine_id"), call.number("contract_id")
    made = await authority.certify(call.context, machine_id, contract_id, request.public_key, call.origin)
    return web.Response(body=document.encode(made).encode(), content_type="application/json")


ROUTES: tuple[Route, ...] = (
    Route("GET", f"/static/{ROOT_FILE}", PUBLIC, root),
    Route(
        "POST", r"/kaalia/v1/machines/{machine_id:\d+}/contracts/{contract_id:\d+}/certificate", MACHINE, certificate
    ),
)
