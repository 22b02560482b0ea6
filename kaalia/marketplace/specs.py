"""What runs for a renter's request: the specification that his machine is told, new or in the place of an older one."""

from collections.abc import Mapping
from dataclasses import asdict

from kaalia.contracts import environment
from kaalia.contracts.environment import Identity, Launch
from kaalia.marketplace import sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.create_request import CreateRequest
from kaalia.model.workload import VolumeMount, WorkloadSpec
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import RegistryLoginReply

CONTRACT_MAX_CHARS = 128 * 1024
"""A machine gets all its contracts in one snapshot, which ends at 16 MiB; Linux takes no longer variable."""


def build(
    request: CreateRequest,
    identity: Identity,
    account: Mapping[str, str],
    disk_bytes: int,
    mounts: tuple[VolumeMount, ...],
    needs_login: bool,
) -> WorkloadSpec:
    """`account`: the renter's own variables."""
    launch = Launch(
        mode=request.launch_mode,
        jupyter_dir=request.shown["jupyter_dir"],
        use_jupyter_lab=request.shown["use_jupyter_lab"],
        python_utf8=request.shown["python_utf8"],
        lang_utf8=request.shown["lang_utf8"],
    )
    return WorkloadSpec(
        image=request.image,
        launch_mode=request.launch_mode,
        disk_bytes=disk_bytes,
        gpu_count=identity.gpu_count,
        args=request.args,
        entrypoint=request.entrypoint,
        env=environment.compose(account, request.options.env, identity, launch),
        ports=request.ports,
        hostname=request.options.hostname,
        volumes=mounts,
        onstart=request.onstart,
        user=request.user,
        needs_registry_login=needs_login,
    )


def check_size(text: str) -> None:
    """Of a contract's document. Raises ApiError 400 `invalid_args`."""
    if len(text) > CONTRACT_MAX_CHARS:
        message = f"cannot pass so many variables and arguments: the contract has {len(text)} characters"
        remedy = f"Stay below {CONTRACT_MAX_CHARS}, the account's own variables included; fetch large data in onstart"
        raise ApiError(400, "invalid_args", message, remedy=remedy)


def sealed_login(context: Context, request: CreateRequest) -> bytes | None:
    """As it is kept: readable with this marketplace's key only. None: the request has none."""
    if request.login is None:
        return None
    return sealing.seal(context.signing_key, document.encode(RegistryLoginReply(**asdict(request.login))).encode())
