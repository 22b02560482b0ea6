"""The owner's configuration: one YAML file, overridden by KAALIA_* variables (`KAALIA_PORTS__RANGE` is `ports.range`).

Refuses what it does not know: a misspelt key that is silently ignored costs an owner a week. Every
complaint names the file or variable, the key, the value and what to write instead. Holds no secrets.
"""

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, field_validator

from kaalia.config_canary import CanaryConfig
from kaalia.config_metrics import MetricsConfig
from kaalia.config_network import NetworkConfig, PortsConfig, ProbeConfig, SpeedConfig
from kaalia.config_notify import NotifyConfig
from kaalia.config_policy import PolicyConfig
from kaalia.config_power import PowerConfig
from kaalia.config_section import AbsolutePath, Section
from kaalia.errors import ConfigError
from kaalia.units import GB

DEFAULT_PATH = Path("/etc/kaalia/kaalia.yaml")
ENVIRONMENT_PREFIX = "KAALIA_"
SOCKET_PATH_MAX_BYTES = 107
"""sun_path of Linux, without its final zero byte."""


def _fits_socket(path: Path) -> Path:
    if len(bytes(path)) > SOCKET_PATH_MAX_BYTES:
        raise ValueError(f"must be at most {SOCKET_PATH_MAX_BYTES} bytes long, the limit of unix sockets")
    return path


def _unix_url(url: str) -> str:
    # Containers, volumes and GPUs are this machine's: an engine elsewhere cannot be meant.
    if not url.startswith("unix:///"):
        raise ValueError("must be the engine's unix socket, such as unix:///var/run/docker.sock")
    return url


def _subnet_pool(text: str) -> str:
    try:
        pool = ipaddress.IPv4Network(text)
    except ValueError:
        raise ValueError("must be an IPv4 network, such as 10.214.0.0/16") from None
    if not pool.is_private or not 8 <= pool.prefixlen <= 24:
        raise ValueError("must be a private IPv4 network between /8 and /24, such as 10.214.0.0/16")
    return text


SocketPath = Annotated[AbsolutePath, AfterValidator(_fits_socket)]


class DockerConfig(Section):
    host: Annotated[str, AfterValidator(_unix_url)] = "unix:///var/run/docker.sock"
    subnet_pool: Annotated[str, AfterValidator(_subnet_pool)] = "10.214.0.0/16"
    """Contracts' bridge networks are cut from here; nothing else on the machine may use it."""
    warm_networks: Annotated[int, Field(ge=0, le=64)] = 2
    """Networks that stand ready, each with a process that holds it open. A launch takes a third of a second less."""


class AccessConfig(Section):
    kit_dir: Literal["auto"] | AbsolutePath = "auto"
    """What `scripts/build-kit` made. `auto`: `kit` below state_dir."""


class VolumesConfig(Section):
    dir: Literal["auto"] | AbsolutePath = "auto"
    """Where renters' volumes lie. `auto`: `kaalia-volumes` beside Docker's data root, on the same file system."""


class DiskConfig(Section):
    low_water_gb: Literal["auto"] | Annotated[float, Field(ge=0, le=100_000)] = "auto"
    """Free space of Docker's disk below which unused images that kaalia pulled go. `auto`: see `contracts.disk`."""

    mount: AbsolutePath | None = None
    """A mount point without which Docker's data would go to another disk: it is told when nothing is mounted there."""

    @property
    def low_water_bytes(self) -> int | None:
        """None: by the size of the disk."""
        return None if self.low_water_gb == "auto" else round(self.low_water_gb * GB)


class NvmlConfig(Section):
    deadline_s: float = Field(default=30.0, gt=0, le=300)
    """A reading that takes longer is a hang. Without persistence mode the driver wakes each GPU first, for seconds."""


class IntervalsConfig(Section):
    report_s: float = Field(default=60.0, gt=0, le=3600)
    gpus_s: float = Field(default=5.0, gt=0, le=60)
    """How often the driver is asked whether anything is otherwise: a fault is told within twice that."""
    heartbeat_s: float = Field(default=60.0, gt=0, le=120)
    """A marketplace counts a machine as offline after 180 s of silence."""
    resync_s: float = Field(default=60.0, gt=0, le=3600)
    health_s: float = Field(default=60.0, gt=0, le=3600)
    """Of what is looked at beside the GPUs."""


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section):
    """Frozen. An empty file is a legal configuration: every field has a default."""

    state_dir: AbsolutePath = Path("/var/lib/kaalia")
    socket: SocketPath = Path("/run/kaalia/kaalia.sock")
    docker: DockerConfig = DockerConfig()
    ports: PortsConfig = PortsConfig()
    probe: ProbeConfig = ProbeConfig()
    speed: SpeedConfig = SpeedConfig()
    network: NetworkConfig = NetworkConfig()
    access: AccessConfig = AccessConfig()
    volumes: VolumesConfig = VolumesConfig()
    disk: DiskConfig = DiskConfig()
    nvml: NvmlConfig = NvmlConfig()
    intervals: IntervalsConfig = IntervalsConfig()
    policy: PolicyConfig = PolicyConfig()
    notify: NotifyConfig = NotifyConfig()
    metrics: MetricsConfig = MetricsConfig()
    canary: CanaryConfig = CanaryConfig()
    power: PowerConfig = PowerConfig()
    log: LogConfig = LogConfig()

    @field_validator("metrics")
    @classmethod
    def _outside_of_range(cls, metrics: MetricsConfig, info: ValidationInfo) -> MetricsConfig:
        """Those ports are renters': one that is held is given to none of them, and after a restart it may be theirs."""
        ports, place = info.data.get("ports"), metrics.place
        if place is not None and ports is not None and ports.first <= place[1] <= ports.last:
            raise ValueError(f"must listen outside of ports.range, {ports.range}, which is renters'")
        return metrics

    @property
    def database_path(self) -> Path:
        return self.state_dir / "state.db"

    @property
    def identity_path(self) -> Path:
        """The machine's private key, 0600."""
        return self.state_dir / "identity.pem"

    @property
    def kits_path(self) -> Path:
        return self.access.kit_dir if isinstance(self.access.kit_dir, Path) else self.state_dir / "kit"

    @property
    def access_path(self) -> Path:
        """A folder for each contract that ssh leads to."""
        return self.state_dir / "access"

    @property
    def lock_path(self) -> Path:
        return self.state_dir / "daemon.lock"


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Read, override, check. None: the default file if it exists, else defaults. Raises ConfigError."""
    if path is None and not DEFAULT_PATH.exists():
        document: dict[str, Any] = {}
    else:
        document = _read(path or DEFAULT_PATH)
    origins = dict(_override(document, environment))
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise _explain(error, str(path or DEFAULT_PATH), origins) from None


class _Loader(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last one; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "config_unreadable", f"cannot read {path}: {error}", remedy="name an existing file with --config"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            "config_not_yaml", f"cannot parse {path}: {' '.join(str(error).split())}", remedy="correct the YAML there"
        ) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(
            "config_not_yaml",
            f"cannot use {path}: it holds {type(document).__name__}, not keys with values",
            remedy="write lines such as 'state_dir: /var/lib/kaalia'",
        )
    return document


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Put the variables into the document; yields (dotted key, variable)."""
    for name, value in sorted(environment.items()):
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not name.startswith(ENVIRONMENT_PREFIX) or _is_foreign(keys):
            continue
        section = document
        for key in keys[:-1]:
            inner = section.get(key)
            section[key] = dict(inner) if isinstance(inner, dict) else {}
            section = section[key]
        section[keys[-1]] = value
        yield ".".join(keys), name


def _is_foreign(keys: list[str]) -> bool:
    """KAALIA_FOO of somebody else; but not KAALIA_STATEDIR, which can only be a misspelt key."""
    return len(keys) == 1 and not difflib.get_close_matches(keys[0], Config.model_fields, n=1, cutoff=0.8)


def _explain(error: ValidationError, file: str, origins: Mapping[str, str]) -> ConfigError:
    """All complaints in one error; the code is that of the first."""
    complaints = [_complaint(dict(each), file, origins) for each in error.errors()]
    sentences = "; ".join(sentence for _, sentence, _ in complaints)
    remedies = "; ".join(dict.fromkeys(remedy for _, _, remedy in complaints))
    return ConfigError(complaints[0][0], f"cannot use the configuration: {sentences}", remedy=remedies)


def _complaint(error: dict[str, Any], file: str, origins: Mapping[str, str]) -> tuple[str, str, str]:
    """(code, sentence, remedy) of one complaint."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    where = f"the variable {origins[key]}" if key in origins else file
    if error["type"] == "extra_forbidden":
        near = _nearest(path)
        remedy = f"write {near}" if near else f"remove {key}"
        return "config_unknown_key", f"{where} has the unknown key {key}", remedy
    if error["type"] == "model_type":
        return (
            "config_invalid",
            f"{where} gives {key} = {_shown(path, error['input'])}, not a section",
            f"write keys under {key}:",
        )
    rule = str(error["msg"]).removeprefix("Value error, ")
    rule = rule.replace("Input should be", "must be")
    return "config_invalid", f"{where} gives {key} = {_shown(path, error['input'])}", f"{key} {rule}"


def _shown(path: list[str], value: object) -> str:
    """A webhook's URL may be as good as a password."""
    if path[0] != "notify" or not isinstance(value, str | dict):
        return repr(value)
    return (
        "{...}" if isinstance(value, dict) else repr(f"{value.partition('://')[0]}://..." if "://" in value else value)
    )


def _nearest(path: list[str]) -> str | None:
    """The known key, anywhere, that looks most like the unknown one."""
    known = list(_known_keys(Config, ""))
    here = ".".join(path)
    for candidates, wanted in ((known, here), ([k.rpartition(".")[2] for k in known], path[-1])):
        if close := difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6):
            return next(k for k in known if k == close[0] or k.endswith(f".{close[0]}"))
    return None


def _known_keys(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, f"{prefix}{name}.")
        for inner in get_args(field.annotation):  # sections by names of the owner's
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _known_keys(inner, f"{prefix}{name}.NAME.")
