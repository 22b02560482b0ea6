"""The section `metrics` of the configuration: who may read them, beside the owner at the local API's socket."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from kaalia.config_section import Section


def _place(text: str) -> tuple[str, int]:
    """An address, without a name to look up, and a port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(port)
    return str(address), int(port)


def _listen(text: str, info: ValidationInfo) -> str:
    if text == "off":
        return text
    try:
        address = ipaddress.ip_address(_place(text)[0])
    except ValueError:
        raise ValueError("must be off, or an address of this machine and a port, such as 127.0.0.1:9464") from None
    if not (address.is_loopback or info.data.get("allow_remote")):
        raise ValueError(
            "must be an address of loopback, such as 127.0.0.1:9464, since nobody logs in there; whoever reaches "
            "another one may read it, with metrics.allow_remote: true"
        )
    return text


class MetricsConfig(Section):
    """The order counts: `listen` is judged by what stands before it."""

    allow_remote: bool = False
    """Whether `listen` may be an address that others reach. Nobody has to log in there."""
    listen: Annotated[str, AfterValidator(_listen)] = "off"
    tenants: bool = False
    """Whether instances of the modes ssh and jupyter find the metrics of their own GPUs in a file."""

    @property
    def place(self) -> tuple[str, int] | None:
        """Address and port; None: off."""
        return None if self.listen == "off" else _place(self.listen)
