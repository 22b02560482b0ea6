"""Templates: how one fills a create request, what makes it the same as another, and how it is edited.

The vastai client sends every field of a request, with null, false, `{}` or its own default for what the renter left
out. So here null is "not given", and so are false (a template is named), `{}` and the integer 10 as disk: the client
sends its default as the integer 10 and a chosen `--disk 10` as the float 10.0.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from kaalia.contracts import dockerflags
from kaalia.errors import ContractError

CLIENT_DISK_GB = 10
"""The disk size that the client sends when the renter gave none."""

_SCALARS = ("onstart", "jupyter_dir", "args_str")
_FLAGS = ("use_jupyter_lab", "python_utf8", "lang_utf8")
_LAUNCH_DEFAULT = {
    "runtype": "args",
    "use_ssh": False,
    "ssh_direct": False,
    "jup_direct": False,
    "use_jupyter_lab": False,
}
"""What the client's `update template` sends when no launch flag was given."""
_SEARCH_DEFAULTS = {"verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True}}
_FILTER_DEFAULTS: tuple[dict[str, Any], ...] = ({}, _SEARCH_DEFAULTS, {**_SEARCH_DEFAULTS, "rented": {"eq": False}})
"""What clients send as `extra_filters` when no search was given."""

CONTENT_FIELDS = (
    "name",
    "image",
    "tag",
    "href",
    "repo",
    "env",
    "onstart",
    *_LAUNCH_DEFAULT,
    "jupyter_dir",
    "args_str",
    "docker_login_repo",
    "docker_login_user",
    "extra_filters",
    "recommended_disk_space",
    "readme",
    "readme_visible",
    "desc",
    "private",
    "volume_info",
)
"""What a template is. Ids, counters and dates are not content; nor is the registry password: a public hash of it could
be guessed at leisure."""


def merge(template: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The create request with the template's values where the request gives none; env and extra_filters by key.

    `env` of the result is the client's dict form. An empty template only drops what is not given.
    Raises ContractError template_invalid, and those of `dockerflags.parse`.
    """
    merged = {key: value for key, value in request.items() if value is not None}
    given: dict[str, Any] = {key: template[key] for key in _SCALARS if template.get(key) is not None}
    if "args" in merged or "args_str" in merged:
        given.pop("args_str", None)
    given |= {key: True for key in _FLAGS if template.get(key) and not merged.get(key)}
    given |= {"image": _image(template), "runtype": _runtype(template), "image_login": _login(template)}
    merged |= {key: value for key, value in given.items() if value is not None and not merged.get(key)}
    if (disk := _disk(template, request)) is not None:
        merged["disk"] = disk
    options = dockerflags.merge(dockerflags.parse(template.get("env")), dockerflags.parse(request.get("env")))
    merged["env"] = dict(dockerflags.to_pairs(options))
    filters = {**_filters(template.get("extra_filters")), **_filters(request.get("extra_filters"))}
    if filters:
        merged["extra_filters"] = filters
    return merged


def content_hash(document: Mapping[str, Any]) -> str:
    """32 hexadecimal digits of the content: the same for equal templates, whatever the order and spelling of fields."""
    content = {key: _canonical(key, document.get(key)) for key in CONTENT_FIELDS}
    known = {key: value for key, value in content.items() if value not in (None, False, "", {})}
    text = json.dumps(known, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def edit(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The template with `changes` to its content, and its new `hash_id`. Null keeps, and so do the client's defaults.

    The client cannot leave a field out: untouched launch flags or search filters arrive as its defaults. They are
    kept as they were when all of them are exactly those defaults. Unknown keys are ignored.
    """
    editable = (*CONTENT_FIELDS, "docker_login_pass")
    given = {key: changes[key] for key in editable if changes.get(key) is not None}
    if all(key in given and given[key] == default for key, default in _LAUNCH_DEFAULT.items()):
        given = {key: value for key, value in given.items() if key not in _LAUNCH_DEFAULT}
    if "extra_filters" in given and _filters(given["extra_filters"]) in _FILTER_DEFAULTS:
        del given["extra_filters"]
    edited = {**old, **given}
    edited["hash_id"] = content_hash(edited)
    return edited


def _image(template: Mapping[str, Any]) -> str | None:
    """`image:tag`, unless the image already says which."""
    image, tag = template.get("image"), template.get("tag")
    if not image or not tag or "@" in image or ":" in image.rpartition("/")[2]:
        return image or None
    return f"{image}:{tag}"


def _runtype(template: Mapping[str, Any]) -> str | None:
    """The template's launch mode in the words of a create request; None when the template says nothing."""
    runtype = template.get("runtype")
    if runtype == "jupyter":
        return "jupyter_direc ssh_direc ssh_proxy" if template.get("jup_direct") else "jupyter_proxy ssh_proxy"
    if runtype == "ssh" or (template.get("use_ssh") and not runtype):
        return "ssh_direc ssh_proxy" if template.get("ssh_direct") else "ssh_proxy"
    return str(runtype) if runtype else None


def _login(template: Mapping[str, Any]) -> str | None:
    """Login arguments as `image_login` holds them; a template of the client names the registry alone: no login."""
    user, password = template.get("docker_login_user"), template.get("docker_login_pass")
    if not user or not password:
        return None
    return shlex.join(["-u", str(user), "-p", str(password), *str(template.get("docker_login_repo") or "").split()[:1]])


def _disk(template: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
    """GB: the renter's choice, else the template's recommendation, else what the request holds."""
    asked = request.get("disk")
    is_default = isinstance(asked, int) and not isinstance(asked, bool) and asked == CLIENT_DISK_GB
    if asked is not None and not is_default:
        return asked
    recommended = _gigabytes(template.get("recommended_disk_space"))
    return recommended if recommended is not None else asked


def _gigabytes(value: Any) -> float | None:
    """`"8.0"`, 8 or 8.0; the client sends text. None and 0 recommend nothing."""
    if value is None or value == "":
        return None
    try:
        size_gb = float(value)
    except (TypeError, ValueError, OverflowError):
        size_gb = -1.0
    if not 0 <= size_gb < 1e9:
        message = f"cannot use recommended_disk_space {value!r}: it is no size in GB"
        raise ContractError("template_invalid", message, remedy="give a number such as 20")
    return size_gb or None


def _filters(value: Any) -> dict[str, Any]:
    """`extra_filters` as an object; rows of the public API hold it as JSON text."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = False
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        message = "cannot use extra_filters: it is no object of filters"
        raise ContractError("template_invalid", message, remedy='send {"num_gpus": {"gte": 1}}')
    return dict(value)


def _canonical(key: str, value: Any) -> Any:
    """One spelling for what clients spell in several ways."""
    if key == "extra_filters":
        return _filters(value)
    if key == "recommended_disk_space":
        return _gigabytes(value)
    return value
