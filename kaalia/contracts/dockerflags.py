"""The renter's Docker options: `-e`, `-h`, `-p`, `-v`, `-n`, in any of the three forms that clients send.

A flag string (`"-e A=B -p 8080:8080"`), the dict of the vastai client (`{"A": "B", "-p 8080:8080": "1"}`) and pairs
(`[["A", "B"]]`) all become `CreateOptions`. Any other Docker option is refused by name: the owner's machine decides
about devices, capabilities and mounts. Values of variables may be secrets, so no message and no repr holds one.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kaalia.errors import ContractError
from kaalia.model.workload import PortRequest, Protocol, VolumeMount

MAX_PORTS = 64
"""Distinct (port, protocol) pairs of one instance: the public service's limit."""
IDENTITY_PORT_MIN = 70000
"""Numbers from here on are no real ports: they ask for a port that is the same inside and outside."""
IDENTITY_PORT_MAX = 99999
HOSTNAME_MAX = 63
"""RFC 1123 for one label, and what Docker accepts as a whole; Linux itself ends at 64."""

ACCEPTED = "only -e, -h, -p, -v and -n are accepted"

_LONG = {"--env": "-e", "--hostname": "-h", "--publish": "-p", "--volume": "-v", "--network": "-n"}
_SHORT = frozenset(_LONG.values())
_PORT = re.compile(r"(?:([0-9]{1,9}):)?([0-9]{1,9})(?:/([A-Za-z]+))?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_VOLUME = re.compile(r"V\.([0-9]{1,18}):(.+)", re.DOTALL)
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"[^\s=\0\"'-][^\s=\0\"']*")
_RESERVED_PATHS = frozenset({"proc", "sys", "dev"})
_REMEDIES = {
    "--gpus": "leave it out: all GPUs of the offer are attached",
    "--shm-size": "leave it out: /dev/shm grows with the GPUs of the offer",
    "--ipc": "leave it out: /dev/shm grows with the GPUs of the offer",
    "--entrypoint": "give the entrypoint and its arguments with the run type 'args'",
    "--env-file": "write each variable as -e KEY=value",
}


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What the options ask for: variables of distinct names, volumes of distinct paths, distinct ports and networks."""

    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ports: tuple[PortRequest, ...] = ()
    hostname: str | None = None
    volumes: tuple[VolumeMount, ...] = ()
    networks: tuple[str, ...] = ()


def parse(env: str | Mapping[str, object] | Sequence[Sequence[str]] | None) -> CreateOptions:
    """Options in any of the three forms; later ones win over earlier ones of the same key.

    Raises ContractError env_invalid, env_option_refused, port_invalid, too_many_ports, volume_invalid or
    hostname_invalid.
    """
    if env is None:
        return CreateOptions()
    return _collect(_from_words(env) if isinstance(env, str) else _from_pairs(env))


def merge(base: CreateOptions, over: CreateOptions) -> CreateOptions:
    """Both together: variables by name, volumes by path and the hostname from `over` first; ports and networks united.

    Raises ContractError too_many_ports.
    """
    merged = replace(
        base,
        env=tuple({**dict(base.env), **dict(over.env)}.items()),
        ports=tuple(dict.fromkeys((*base.ports, *over.ports))),
        hostname=base.hostname if over.hostname is None else over.hostname,
        volumes=tuple({mount.path: mount for mount in (*base.volumes, *over.volumes)}.values()),
        networks=tuple(dict.fromkeys((*base.networks, *over.networks))),
    )
    _check_port_count(merged.ports)
    return merged


def to_pairs(options: CreateOptions) -> list[list[str]]:
    """The `extra_env` of the public API, which `parse` reads back: `[["A", "B"], ["-h", "n1"], ["-p 80:80", "1"]]`."""
    pairs = [[key, value] for key, value in options.env]
    if options.hostname is not None:
        pairs.append(["-h", options.hostname])
    for port in options.ports:
        suffix = "/udp" if port.protocol is Protocol.UDP else ""
        pairs.append([f"-p {port.container_port}:{port.container_port}{suffix}", "1"])
    pairs += [[f"-v V.{mount.volume_id}:{mount.path}", "1"] for mount in options.volumes]
    pairs += [[f"-n {network}", "1"] for network in options.networks]
    return pairs


def _collect(options: Iterable[tuple[str, str]]) -> CreateOptions:
    """Pairs of short option and argument, to options."""
    env: dict[str, str] = {}
    ports: dict[PortRequest, None] = {}
    volumes: dict[str, VolumeMount] = {}
    networks: dict[str, None] = {}
    hostname: str | None = None
    for option, argument in options:
        match option:
            case "-e":
                key, value = _variable(argument)
                env[key] = value
            case "-p":
                ports[_port(argument)] = None
            case "-v":
                mount = _volume(argument)
                volumes[mount.path] = mount
            case "-n":
                networks[_network(argument)] = None
            case _:
                hostname = _hostname(argument)
    _check_port_count(ports)
    return CreateOptions(tuple(env.items()), tuple(ports), hostname, tuple(volumes.values()), tuple(networks))


def _from_words(text: str) -> Iterator[tuple[str, str]]:
    """Words of a flag string, as a shell would split them."""
    try:
        words = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "))
    except ValueError as error:
        remedy = 'close every quote; an apostrophe inside a value needs double quotes: -e "TEXT=it\'s fine"'
        raise ContractError("env_invalid", f"cannot split the options into words: {error}", remedy=remedy) from None
    place = 0
    while place < len(words):
        option, argument, used = _option(words[place], place, words[place + 1 : place + 2])
        yield option, argument
        place += used


def _option(word: str, place: int, following: list[str]) -> tuple[str, str, int]:
    """One option: its short form, its argument, and how many words it took."""
    if not word.startswith("-"):
        raise _bare_word(word, place)
    name, equals, attached = word.partition("=")
    if name in _LONG and equals:
        return _LONG[name], attached, 1
    if word in _LONG or word in _SHORT:
        if not following:
            raise ContractError(
                "env_invalid", f"cannot read option {word}: nothing follows it", remedy=f"complete or drop {word}"
            )
        return _LONG.get(word, word), following[0], 2
    if word[:2] in _SHORT:
        return word[:2], word[2:], 1
    raise _refused(name)


def _bare_word(word: str, place: int) -> ContractError:
    key, equals, _ = word.partition("=")
    if equals and _KEY.fullmatch(key):
        message = f"cannot read variable {key!r}: it stands without -e"
        return ContractError("env_invalid", message, remedy=f"put -e before it: -e {key}=...")
    message = f"cannot read word {place + 1} of the options: it belongs to no option"
    return ContractError("env_invalid", message, remedy='quote values that hold blanks: -e "KEY=two words"')


def _refused(name: str) -> ContractError:
    remedy = _REMEDIES.get(name, f"leave it out: {ACCEPTED}")
    return ContractError("env_option_refused", f"cannot use Docker option {name!r}: {ACCEPTED}", remedy=remedy)


def _from_pairs(env: Mapping[str, object] | Sequence[Sequence[object]]) -> Iterator[tuple[str, str]]:
    """Entries of the client's dict, or of `extra_env`: a variable, or an option with its argument in key or value."""
    items: Iterable[Sequence[object]] = env.items() if isinstance(env, Mapping) else env
    for place, item in enumerate(items):
        if isinstance(item, str) or len(item) != 2 or not isinstance(item[0], str):
            remedy = 'send {"KEY": "value"}, [["KEY", "value"]] or "-e KEY=value"'
            raise ContractError("env_invalid", f"cannot read entry {place + 1} of env: no pair", remedy=remedy)
        key, value = item[0].strip(), _text(item[0].strip(), item[1])
        if not key.startswith("-"):
            yield "-e", f"{_unquoted(key)}={_unquoted_tail(key, value)}"
            continue
        option, *argument = key.split(maxsplit=1)
        short, text, _ = _option(option, place, argument or [value])
        yield short, text


def _text(key: str, value: object) -> str:
    """A value as text: numbers and booleans as JSON spells them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    message = f"cannot read variable {key!r}: its value is {'null' if value is None else type(value).__name__}"
    raise ContractError("env_invalid", message, remedy="send text or a number; drop the key for no value")


def _unquoted(key: str) -> str:
    """The client splits `-e "C=x y"` into key `"C` and value `x y`: the quote belongs to neither."""
    return key.strip("\"'")


def _unquoted_tail(key: str, value: str) -> str:
    return value.removesuffix(key[0]) if key[:1] in ('"', "'") else value


def _variable(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not _KEY.fullmatch(key):
        remedy = "give it a name without blanks, quotes or a leading -: -e KEY=value"
        raise ContractError("env_invalid", f"cannot use {key[:64]!r} as the name of a variable", remedy=remedy)
    if not equals:
        message = f"cannot set variable {key!r}: -e {key} has no value"
        raise ContractError("env_invalid", message, remedy=f"write -e {key}=value; the machine has none to inherit")
    if "\0" in value:
        message = f"cannot set variable {key!r}: its value holds a zero byte"
        raise ContractError("env_invalid", message, remedy="encode the value, for example as base64")
    return key, value


def _port(argument: str) -> PortRequest:
    """`8080`, `8080:8080`, `8080:80/udp`: the right-hand number is the container's; the machine picks the outer one."""
    match = _PORT.fullmatch(argument)
    if match is None:
        raise _bad_port(argument, "it is not of the form 8080, 8080:8080 or 8080:8080/udp")
    outer, inner, protocol = int(match[1] or match[2]), int(match[2]), (match[3] or "tcp").lower()
    if protocol not in {"tcp", "udp"}:
        raise _bad_port(argument, f"the protocol {protocol!r} is neither tcp nor udp")
    if max(outer, inner) >= IDENTITY_PORT_MIN and outer != inner:
        raise _bad_port(argument, f"an identity port ({IDENTITY_PORT_MIN} or more) has the same number twice")
    if (
        not (1 <= inner <= 65535 or IDENTITY_PORT_MIN <= inner <= IDENTITY_PORT_MAX)
        or 65535 < outer < IDENTITY_PORT_MIN
    ):
        raise _bad_port(argument, "a number lies outside 1-65535")
    return PortRequest(inner, Protocol(protocol))


def _bad_port(argument: str, why: str) -> ContractError:
    remedy = (
        "give each port its own -p, without address or range, such as -p 8080:8080 or -p 8081:8081/udp; "
        f"for a port that is the same inside and outside write -p {IDENTITY_PORT_MIN}:{IDENTITY_PORT_MIN}"
    )
    return ContractError("port_invalid", f"cannot open port {argument[:64]!r}: {why}", remedy=remedy)


def _check_port_count(ports: Iterable[PortRequest]) -> None:
    if (count := len(set(ports))) > MAX_PORTS:
        message = f"cannot open {count} ports: an instance has {MAX_PORTS} at most"
        raise ContractError("too_many_ports", message, remedy=f"drop {count - MAX_PORTS} of the -p options")


def _hostname(argument: str) -> str:
    if len(argument) <= HOSTNAME_MAX and all(_LABEL.fullmatch(label) for label in argument.split(".")):
        return argument
    message = f"cannot use {argument[:80]!r} as hostname"
    remedy = f"use letters, digits, - and . only, none of - and . at the ends, {HOSTNAME_MAX} characters at most"
    raise ContractError("hostname_invalid", message, remedy=remedy)


def _volume(argument: str) -> VolumeMount:
    match = _VOLUME.fullmatch(argument)
    if match is None:
        raise _bad_volume(argument, "it is not of the form V.<volume id>:<path>")
    path = match[2].rstrip("/") if match[2].startswith("/") else match[2]
    if (why := _path_fault(path)) is not None:
        raise _bad_volume(argument, why)
    return VolumeMount(int(match[1]), path)


def _path_fault(path: str) -> str | None:
    """Why nothing may be mounted at `path`, None when it may."""
    root, *parts = path.split("/")
    top = parts[0] if parts else ""
    checks = (
        (not path, "it would hide the whole file system of the image"),
        (root != "", "the path is not absolute"),
        (len(path) > 255, "the path is longer than 255 characters"),
        (":" in path, "mount options are not accepted"),
        (not path.isprintable(), "the path holds control characters"),
        (not {"", ".", ".."}.isdisjoint(parts), "the path holds an empty part, . or .."),
        (top in _RESERVED_PATHS, f"/{top} belongs to the system"),
    )
    return next((why for is_fault, why in checks if is_fault), None)


def _bad_volume(argument: str, why: str) -> ContractError:
    remedy = "mount a volume of yours at a directory of the container, such as -v V.901:/data"
    return ContractError("volume_invalid", f"cannot mount {argument[:300]!r}: {why}", remedy=remedy)


def _network(argument: str) -> str:
    if _NETWORK.fullmatch(argument):
        return argument
    remedy = "use the name of an overlay network of yours: letters, digits, -, _ and ."
    raise ContractError("env_invalid", f"cannot join network {argument[:80]!r}: no such form of name", remedy=remedy)
