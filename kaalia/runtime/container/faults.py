"""The Docker Engine's words to our codes. Pure; the engine's verbatim text always stays as evidence.

Order matters: the first pattern that matches decides. The texts are those of Docker 20.10 to 29.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.errors import Problem, WorkloadError


@dataclass(frozen=True, slots=True)
class _Fault:
    pattern: re.Pattern[str]
    problem: Problem


def _fault(pattern: str, problem: Problem) -> _Fault:
    return _Fault(re.compile(pattern, re.IGNORECASE | re.DOTALL), problem)


_ENGINE = "see `systemctl status docker` and `journalctl -u docker` of the machine"

_FAULTS = (
    _fault(
        r"transport is closing|error reading from server|containerd\.sock|daemon is shutting down|context canceled"
        r"|code = unavailable",
        Problem(
            "engine_unavailable",
            "cannot {doing}: the container engine is going down or coming up",
            remedy=_ENGINE,
        ),
    ),
    _fault(
        r"toomanyrequests|too many requests|rate limit",
        Problem(
            "registry_rate_limited",
            "cannot {doing}: the registry refuses more pulls for now",
            remedy="wait, or rent with a registry login",
        ),
    ),
    _fault(
        r"unauthorized|authentication required|no basic auth credentials|pull access denied"
        r"|requested access to the resource|denied: |incorrect username or password",
        Problem(
            "registry_unauthorized",
            "cannot {doing}: the registry refuses access, or there is no such repository",
            remedy="check the image name, and give a registry login if it is private",
        ),
    ),
    _fault(
        r"no matching manifest",
        Problem(
            "image_platform",
            "cannot {doing}: the image has no build for this machine's processor",
            remedy="choose an image or tag for the machine's architecture",
        ),
    ),
    _fault(
        r"manifest for .* not found|manifest unknown|name unknown|repository .* not found|no such image"
        r"|image not known",
        Problem(
            "image_not_found",
            "cannot {doing}: there is no such image or tag",
            remedy="check the image name and tag",
        ),
    ),
    _fault(
        r"invalid reference format|invalid tag format|must be lowercase",
        Problem(
            "image_invalid",
            "cannot {doing}: this is not an image name",
            remedy="write it as [registry/]name[:tag]",
        ),
    ),
    _fault(
        r"unable to find user|no matching entries in passwd file",
        Problem(
            "user_unknown",
            "cannot {doing}: the image has no such user",
            remedy="name an account of the image, or leave user out",
        ),
    ),
    _fault(
        r"no space left on device|disk quota exceeded",
        Problem(
            "disk_full",
            "cannot {doing}: the disk space is used up",
            remedy="rent with more disk, or free space on the machine",
        ),
    ),
    _fault(
        r"is already in use by container|name .* is already in use",
        Problem(
            "name_taken",
            "cannot {doing}: the name is in use",
            remedy="remove or rename the container that has the name",
        ),
    ),
    _fault(
        r"port is already allocated|address already in use",
        Problem(
            "port_taken",
            "cannot {doing}: another program of the machine holds a host port",
            remedy="find it with `ss -lntup` and keep it out of the machine's port range",
        ),
    ),
    _fault(
        r"nvidia-container|could not select device driver|nvidia\.com/gpu|prestart hook|cdi device",
        Problem(
            "gpu_hook_failed",
            "cannot {doing}: the NVIDIA container toolkit could not give the GPUs to the container",
            remedy="run `nvidia-smi` on the machine, check the NVIDIA Container Toolkit and restart Docker",
        ),
    ),
    _fault(
        r"pool overlaps|overlaps with other one|could not find an available.*address pool",
        Problem(
            "subnet_taken",
            "cannot {doing}: the subnet is in use on this machine",
            remedy="choose another subnet range for contracts",
        ),
    ),
    _fault(
        r"network with name .* already exists",
        Problem(
            "network_exists",
            "cannot {doing}: there is a network of this name",
            remedy="remove or rename it if it is not the contract's",
        ),
    ),
    _fault(
        r"active endpoints",
        Problem(
            "network_busy",
            "cannot {doing}: another container is connected to the contract's network",
            remedy="disconnect it with `docker network disconnect`",
        ),
    ),
    _fault(
        r"network \S+ not found|could not find network|no such network",
        Problem(
            "network_missing",
            "cannot {doing}: the contract's network is gone",
            remedy="create the workload again; its data stays",
        ),
    ),
    _fault(
        r"storage-opt|storage option|--storage-opt",
        Problem(
            "disk_limit_unsupported",
            "cannot {doing}: the engine cannot limit disk space on this file system",
            remedy="put Docker's data root on btrfs, or on xfs mounted with pquota",
        ),
    ),
    _fault(
        r"unexpected eof|connection reset|broken pipe|httpreadseeker|byte range|failed to copy",
        Problem(
            "pull_interrupted",
            "cannot {doing}: the registry's connection broke off",
            remedy="it is tried again; layers that arrived are kept",
        ),
    ),
    _fault(
        r"no such host|connection refused|i/o timeout|deadline exceeded|awaiting headers|network is unreachable"
        r"|server misbehaving|tls handshake|x509|server gave http response",
        Problem(
            "registry_unreachable",
            "cannot {doing}: the registry does not answer",
            remedy="check the registry's name and the machine's DNS and internet connection",
        ),
    ),
    _fault(
        r"executable file not found|no such file or directory.*unknown|exec format error"
        r"|starting container process caused|oci runtime|runc|failed to create (shim )?task|unable to start",
        Problem(
            "container_start_failed",
            "cannot {doing}: the container's first process could not be started",
            remedy="check the image's entrypoint, arguments and user",
        ),
    ),
)


_RUNTIME = re.compile(r"oci runtime|runc |failed to create task|starting container process", re.IGNORECASE)
_RUNTIME_CODES = frozenset({"gpu_hook_failed", "disk_full", "container_start_failed"})
"""What an OCI runtime's message can mean. It quotes the tenant's command line, which must not pick any other code."""


def classify(doing: str, text: str, status: int | None = None) -> WorkloadError:
    """The error for what the engine said while `doing` ("start C.7"). `status` is the HTTP status if there was one."""
    from_runtime = _RUNTIME.search(text) is not None
    for fault in _FAULTS:
        problem = fault.problem
        if from_runtime and problem.code not in _RUNTIME_CODES:
            continue
        if fault.pattern.search(text):
            message = problem.message.format(doing=doing)
            return WorkloadError(problem.code, message, remedy=problem.remedy, evidence=text)
    if status == 404:
        return WorkloadError("not_found", f"cannot {doing}: it does not exist", remedy="create it first", evidence=text)
    if status == 409:
        return WorkloadError(
            "engine_conflict", f"cannot {doing}: its state does not allow it", remedy=_ENGINE, evidence=text
        )
    return WorkloadError(
        "engine_refused",
        f"cannot {doing}: the container engine refused",
        remedy=_ENGINE,
        evidence=text,
    )


def unavailable(doing: str, text: str) -> WorkloadError:
    """Nothing is known: the engine did not answer, or not to the end. Never a reason to act on a workload."""
    return WorkloadError(
        "engine_unavailable",
        f"cannot {doing}: the container engine does not answer",
        remedy=_ENGINE,
        evidence=text,
    )


def stalled(doing: str, inactivity_s: float, text: str) -> WorkloadError:
    """A pull that brought nothing for `inactivity_s` seconds."""
    return WorkloadError(
        "pull_stalled",
        f"cannot {doing}: nothing arrived for {inactivity_s:.0f} s",
        remedy="check the registry and the machine's internet connection; layers that arrived are kept",
        evidence=text,
    )


def refusal(document: Mapping[str, Any]) -> str:
    """The words of a line of progress that tells an error."""
    return str((document.get("errorDetail") or {}).get("message") or document.get("error"))
