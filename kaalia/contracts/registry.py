"""The login of a private registry, as `docker login` takes it: `-u bob -p password docker.io`."""

import shlex
from dataclasses import dataclass, field

from kaalia.contracts.image import DOCKER_HUB
from kaalia.errors import ContractError

_OPTIONS = {"-u": "username", "--username": "username", "-p": "password", "--password": "password"}


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """The password never shows in a repr."""

    registry: str
    username: str
    password: str = field(repr=False)


def parse_login(text: str) -> RegistryLogin:
    """Raises ContractError login_invalid; its message holds nothing of the text, which may be a secret."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise _invalid("a quote is not closed") from None
    if words[:2] == ["docker", "login"]:
        words = words[2:]
    values: dict[str, str] = {}
    while words:
        word = words.pop(0)
        name, equals, attached = word.partition("=")
        if word in _OPTIONS:
            if not words:
                raise _invalid(f"nothing follows {word}")
            values[_OPTIONS[word]] = words.pop(0)
        elif name in _OPTIONS and equals:
            values[_OPTIONS[name]] = attached
        elif word[:2] in _OPTIONS and not word.startswith("--"):
            values[_OPTIONS[word[:2]]] = word[2:]
        elif word.startswith("-") or "registry" in values:
            raise _invalid("there is an option or a word too many")
        else:
            values["registry"] = word
    if not values.get("username") or not values.get("password"):
        raise _invalid("user or password is missing")
    return RegistryLogin(values.get("registry", DOCKER_HUB), values["username"], values["password"])


def _invalid(why: str) -> ContractError:
    remedy = "write it as for docker login: -u USER -p PASSWORD docker.io"
    return ContractError("login_invalid", f"cannot use image_login: {why}", remedy=remedy)
