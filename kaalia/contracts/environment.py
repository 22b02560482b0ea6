"""The variables of a rented container, but for those that only the machine knows (mapped ports, public address).

Account secrets < template < request, which the caller has merged; the variables that identify the instance win over
all, since programs inside reach their own instance by them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kaalia.model.workload import LaunchMode

BUTTON_TOKEN_PLACEHOLDER = "1"  # noqa: S105 no secret: it stands where one comes
"""Templates pass OPEN_BUTTON_TOKEN=1 where the instance's own token belongs."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the instance is."""

    contract_id: int
    api_key: str
    jupyter_token: str
    gpu_count: int
    marketplace_url: str
    ssh_public_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """How it is started, as far as variables tell it."""

    mode: LaunchMode
    jupyter_dir: str | None = None
    use_jupyter_lab: bool = False
    python_utf8: bool = False
    lang_utf8: bool = False


def compose(
    secrets: Mapping[str, str], asked: Iterable[tuple[str, str]], identity: Identity, launch: Launch
) -> tuple[tuple[str, str], ...]:
    """The whole environment, each name once."""
    env = {**_defaults(identity, launch), **secrets, **dict(asked)}
    if env.get("OPEN_BUTTON_TOKEN") == BUTTON_TOKEN_PLACEHOLDER:
        env["OPEN_BUTTON_TOKEN"] = identity.jupyter_token
    return tuple({**env, **_fixed(identity)}.items())


def _defaults(identity: Identity, launch: Launch) -> dict[str, str]:
    env = {
        "VAST_URL": identity.marketplace_url,
        "GPU_COUNT": str(identity.gpu_count),
        "DATA_DIRECTORY": "/workspace/",
    }
    if identity.ssh_public_keys:
        env["SSH_PUBLIC_KEY"] = "\n".join(identity.ssh_public_keys)
    if launch.mode is LaunchMode.JUPYTER:
        env |= {
            "JUPYTER_SERVER_ROOT": "/",
            "JUPYTER_SERVER_URL": "https://0.0.0.0:8080/",
            "JUPYTER_TYPE": "lab" if launch.use_jupyter_lab else "notebook",
        }
    if launch.jupyter_dir:
        env["JUPYTER_DIR"] = launch.jupyter_dir
    if launch.python_utf8:
        env |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    if launch.lang_utf8:
        env |= {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    return env


def _fixed(identity: Identity) -> dict[str, str]:
    return {
        "CONTAINER_ID": str(identity.contract_id),
        "VAST_CONTAINERLABEL": f"C.{identity.contract_id}",
        "CONTAINER_API_KEY": identity.api_key,
        "JUPYTER_TOKEN": identity.jupyter_token,
    }
