"""What a renter asks for when accepting an offer: read, merged with a template, and checked field by field.

Refuses what cannot be granted yet (overlay networks, VMs) by name instead of dropping it.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kaalia.contracts import dockerflags, image, template
from kaalia.contracts.dockerflags import CreateOptions
from kaalia.contracts.registry import RegistryLogin, parse_login
from kaalia.contracts.volume import VOLUME_ID_MAX
from kaalia.errors import ContractError
from kaalia.marketplace.templates import ONSTART_MAX_CHARS, invalid_fields, onstart_too_long
from kaalia.model.workload import LaunchMode, PortRequest
from kaalia.wire.error import ApiError

PRICE_MIN, PRICE_MAX = Decimal("0.001"), Decimal(128)
"""Bids in $/h for the whole instance: the public service's range."""
MIN_DISK_GB = Decimal(1)
LABEL_MAX_CHARS = 1024
SSH_PORT = PortRequest(22)
JUPYTER_PORT = PortRequest(8080)

_SHOWN = ("onstart", "jupyter_dir", "use_jupyter_lab", "python_utf8", "lang_utf8", "user", "args_str")


class _Fields(BaseModel):
    """The documented fields. Unknown ones are ignored, null means not given."""

    model_config = ConfigDict(extra="ignore")

    image: Annotated[str, Field(max_length=1024)] | None = None
    env: str | dict[str, Any] | list[list[Any]] | None = None
    price: Decimal | None = None
    disk: Annotated[Decimal, Field(le=1_000_000_000)] | None = None
    label: str | None = None
    extra: str | None = None
    onstart: str | None = None
    image_login: str | None = None
    python_utf8: bool = False
    lang_utf8: bool = False
    use_jupyter_lab: bool = False
    jupyter_dir: Annotated[str, Field(max_length=4096)] | None = None
    force: bool = False
    cancel_unavail: bool | None = None
    template_hash_id: str | None = None
    template_id: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    user: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_][\w.-]*(:[\w.-]+)?$")] | None = None
    runtype: str | None = None
    args: list[str] | None = None
    args_str: str | None = None
    target_state: Annotated[str, Field(pattern="^(running|stopped)$")] | None = None
    vm: bool = False
    volume_info: dict[str, Any] | None = None


class _VolumeInfo(BaseModel):
    """`volume_id`: of a volume offer with `create_new`, else of a volume."""

    model_config = ConfigDict(extra="ignore")

    mount_path: Annotated[str, Field(max_length=255)]
    volume_id: Annotated[int, Field(ge=0, le=VOLUME_ID_MAX)]
    create_new: bool = False
    name: str | None = None
    size: Decimal = Decimal(15)


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume to be made for the instance, of the volume offer `offer_id`."""

    offer_id: int
    path: str
    size_gb: Decimal
    name: str | None


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A request that can be granted, as far as it can be known without looking at the offer."""

    image: str
    options: CreateOptions
    """Variables, volumes and ports as the renter and the template gave them."""
    launch_mode: LaunchMode
    ports: tuple[PortRequest, ...]
    """Those of `options` and those that the launch mode needs."""
    runtype: str
    args: tuple[str, ...]
    entrypoint: str | None
    onstart: str | None
    bid_usd_per_hour: Decimal | None
    disk_gb: Decimal
    label: str | None
    login: RegistryLogin | None
    user: str | None
    starts: bool
    cancel_unavail: bool
    new_volume: NewVolume | None
    shown: dict[str, Any]
    """What the API shows of it later; no registry login."""


def named_template(body: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """(template_id, template_hash_id) of a body. Raises ApiError 400 when any field has a wrong type."""
    fields = _fields(body)
    return fields.template_id, fields.template_hash_id


def read(body: Mapping[str, Any], template_document: Mapping[str, Any] | None) -> CreateRequest:
    """Merge with the template and check. Raises ApiError 400 that names field, value and remedy."""
    try:
        fields = _fields(template.merge(template_document or {}, body))
        _refuse_unavailable(fields)
        return _request(fields, has_template=template_document is not None)
    except ContractError as error:
        raise _invalid(error.problem.message, error.problem.remedy, reason=error.code) from error


def _request(fields: _Fields, has_template: bool) -> CreateRequest:
    if not fields.image:
        remedy = "The template has none either: give one" if has_template else "Give image, or template_hash_id"
        raise _invalid("cannot create an instance: image is missing", remedy)
    image.check(fields.image)
    options = dockerflags.merge(dockerflags.parse(fields.extra), dockerflags.parse(fields.env))
    _refuse_networks(options)
    options, new_volume = _volumes(fields, options)
    args = _args(fields)
    runtype = _runtype(fields, args)
    launch_mode = _launch_mode(runtype)
    entrypoint, onstart = _scripts(fields, launch_mode)
    env_pairs = dockerflags.to_pairs(options)
    return CreateRequest(
        image=fields.image,
        options=options,
        launch_mode=launch_mode,
        ports=_ports(options, launch_mode),
        runtype=runtype,
        args=args,
        entrypoint=entrypoint,
        onstart=onstart,
        bid_usd_per_hour=_bid(fields),
        disk_gb=_disk(fields),
        label=checked_label(fields.label),
        login=parse_login(fields.image_login) if fields.image_login else None,
        user=fields.user,
        starts=fields.target_state != "stopped",
        cancel_unavail=_cancel_unavail(fields),
        new_volume=new_volume,
        shown={**fields.model_dump(include=set(_SHOWN)), "image": fields.image, "runtype": runtype, "env": env_pairs},
    )


def checked_label(label: str | None) -> str | None:
    """The label, None when blank. Raises ApiError 400 `label_too_long`."""
    if label is not None and len(label) > LABEL_MAX_CHARS:
        message = f"cannot use a label of {len(label)} characters: {LABEL_MAX_CHARS} at most"
        raise ApiError(400, "label_too_long", message, remedy="Shorten it")
    return label or None


def _fields(body: Mapping[str, Any]) -> _Fields:
    try:
        return _Fields.model_validate(dict(body))
    except ValidationError as error:
        raise invalid_fields("cannot read the request", error) from error


def _refuse_unavailable(fields: _Fields) -> None:
    if fields.vm:
        raise _invalid(
            "cannot create a VM: this marketplace rents containers", "Leave vm out", reason="vms_unavailable"
        )


def _refuse_networks(options: CreateOptions) -> None:
    if options.networks:
        names = ", ".join(options.networks)
        raise ApiError(
            400, "networks_unavailable", f"cannot join network {names}: no overlay networks here yet", remedy="Drop -n"
        )


def _volumes(fields: _Fields, options: CreateOptions) -> tuple[CreateOptions, NewVolume | None]:
    """`volume_info` links a volume (then it is one more mount) or names the volume offer to make one of."""
    if not fields.volume_info:
        return options, None
    try:
        info = _VolumeInfo.model_validate(fields.volume_info)
    except ValidationError as error:
        raise invalid_fields("cannot read volume_info", error) from error
    # The same check of the path as for `-v V.1:/data`.
    linked = dockerflags.parse([["-v", f"V.{info.volume_id}:{info.mount_path}"]])
    if any(mount.path == linked.volumes[0].path for mount in options.volumes):
        message = f"cannot mount two volumes at {info.mount_path}"
        raise _invalid(message, "Give each volume a path of its own", reason="volume_invalid")
    if not info.create_new:
        return dockerflags.merge(options, linked), None
    return options, NewVolume(info.volume_id, linked.volumes[0].path, info.size, info.name)


def _args(fields: _Fields) -> tuple[str, ...]:
    if fields.args is not None:
        return tuple(fields.args)
    try:
        return tuple(shlex.split(fields.args_str or ""))
    except ValueError as error:
        raise _invalid(
            f"cannot split args_str into words: {error}", "Close every quote, or send args as a list"
        ) from None


def _runtype(fields: _Fields, args: tuple[str, ...]) -> str:
    if fields.runtype and fields.runtype.strip():
        return fields.runtype
    return "args" if args or fields.args is not None else "ssh"


def _launch_mode(runtype: str) -> LaunchMode:
    """Blank-separated words, matched by their beginnings: the client writes `ssh_direc` without its last letter."""
    modes = []
    for word in runtype.split():
        mode = next((mode for mode in LaunchMode if word.startswith(mode.value)), None)
        if mode is None or word.removeprefix(mode.value) not in ("", "_proxy", "_direc", "_direct"):
            remedy = "Use ssh, jupyter, args, ssh_proxy, ssh_direct, jupyter_proxy or jupyter_direct"
            raise _invalid(f"cannot use runtype={runtype[:80]!r}: {word[:40]!r} is no launch mode", remedy)
        modes.append(mode)
    return next(mode for mode in (LaunchMode.JUPYTER, LaunchMode.SSH, LaunchMode.ARGS) if mode in modes)


def _scripts(fields: _Fields, mode: LaunchMode) -> tuple[str | None, str | None]:
    """(entrypoint, onstart). In args mode no launch script runs: there the client's --entrypoint travels as onstart."""
    onstart = fields.onstart if fields.onstart and fields.onstart.strip() else None
    if onstart is not None and len(onstart) > ONSTART_MAX_CHARS:
        raise onstart_too_long(onstart)
    if mode is not LaunchMode.ARGS or onstart is None:
        return None, onstart
    if len(onstart.split()) > 1:
        remedy = "Use runtype ssh or jupyter, or give the command in args; one word is taken as entrypoint"
        raise _invalid(f"cannot run the onstart script {onstart[:60]!r} with runtype args", remedy)
    return onstart.strip(), None


def _ports(options: CreateOptions, mode: LaunchMode) -> tuple[PortRequest, ...]:
    own = {LaunchMode.ARGS: (), LaunchMode.SSH: (SSH_PORT,), LaunchMode.JUPYTER: (SSH_PORT, JUPYTER_PORT)}[mode]
    return dockerflags.merge(CreateOptions(ports=own), CreateOptions(ports=options.ports)).ports


def _bid(fields: _Fields) -> Decimal | None:
    if fields.price is not None and not PRICE_MIN <= fields.price <= PRICE_MAX:
        message = f"cannot bid price={fields.price}: it is outside {PRICE_MIN} to {PRICE_MAX} $/h"
        raise ApiError(400, "invalid_price", message, remedy="Bid within the range, or leave price out for on-demand")
    return fields.price


def _disk(fields: _Fields) -> Decimal:
    disk_gb = Decimal(template.CLIENT_DISK_GB) if fields.disk is None else fields.disk
    if disk_gb < MIN_DISK_GB:
        raise _invalid(
            f"cannot use disk={disk_gb}: it is less than {MIN_DISK_GB} GB", f"Ask for {MIN_DISK_GB} GB or more"
        )
    return disk_gb


def _cancel_unavail(fields: _Fields) -> bool:
    """Documented default: true for on-demand that shall run, false for bids."""
    if fields.cancel_unavail is not None:
        return fields.cancel_unavail
    return fields.price is None and fields.target_state != "stopped"


def _invalid(message: str, remedy: str, **extra: Any) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy, **extra)
