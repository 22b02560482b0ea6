"""The sections of the configuration that concern the network: `ports`, `probe`, `speed` and `network`."""

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kaalia.config_section import AbsolutePath, Section, words


def _port_range(text: str) -> str:
    first, dash, last = text.strip().partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65535):
        raise ValueError("must be START-END with 1024 <= START <= END <= 65535, such as 40000-40799")
    return text.strip()


def _public_ip(text: str) -> str:
    if text == "auto":
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be auto or an IP address, such as 203.0.113.7") from None


def host_and_port(text: str) -> tuple[str, int]:
    """`198.51.100.4:8091` or `[2001:db8::4]:8091`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536
    if not (host and is_number and len(host) < 256) or any(char in host for char in "/@?# "):
        raise ValueError("must be HOST:PORT, such as 198.51.100.4:8091")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _witness(text: str) -> str:
    try:
        ipaddress.ip_address(host_and_port(text)[0])
    except ValueError:
        raise ValueError("must be ADDRESS:PORT, such as 1.1.1.1:443: an address, since names may not resolve") from None
    return text


def _speed_peer(text: str) -> str:
    if text not in ("marketplace", "off"):
        try:
            host_and_port(text)
        except ValueError as error:
            raise ValueError(f"must be marketplace, off, or a peer: {error}") from None
    return text


def _prober(text: str) -> str:
    if text in ("marketplace", "off"):
        return text
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or not rest or any(char in rest for char in "@?# "):
        raise ValueError("must be marketplace, off, or a prober's URL, such as http://198.51.100.4:8090")
    return text.rstrip("/")


def _network(text: str) -> str:
    try:
        if "%" not in text:
            return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        pass
    raise ValueError("must be networks or addresses, such as 192.168.1.0/24, 192.168.1.7 or fd00:1::/64")


class PortsConfig(Section):
    range: Annotated[str, AfterValidator(_port_range)] = "40000-40799"
    public_ip: Annotated[str, AfterValidator(_public_ip)] = "auto"

    @property
    def first(self) -> int:
        return int(self.range.partition("-")[0])

    @property
    def last(self) -> int:
        return int(self.range.partition("-")[2])


class ProbeConfig(Section):
    url: Annotated[str, AfterValidator(_prober)] = "marketplace"
    """Who tries the ports from outside. Another prober: `kaalia probe serve` on any machine with a public address."""
    every_hours: float = Field(default=24.0, ge=1, le=24 * 30)


class SpeedConfig(Section):
    peer: Annotated[str, AfterValidator(_speed_peer)] = "marketplace"
    """With whom the speed of the line is measured. Another peer: `kaalia probe speed` on any machine."""
    secret_file: AbsolutePath | None = None
    """What this machine and that peer both know."""
    every_hours: float = Field(default=24.0, ge=1, le=24 * 30)
    max_gb: float = Field(default=10.0, ge=0.1, le=32)
    """Of one test, each way, in 10^9 bytes."""


class NetworkConfig(Section):
    """What tenants reach; see `runtime.sandbox.rules`."""

    allow: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(words)] = ()
    """Networks, of IPv4 and IPv6, that are open to tenants although they are not the internet."""
    ipv6: Literal["auto", "off"] = "auto"
    """`auto`: contracts' networks have IPv6 where the machine has it."""
    block_smtp: bool = True
    connections_per_s: Literal["unlimited"] | Annotated[int, Field(ge=1, le=10_000)] = 1000
    """New connections of one contract; above, they are dropped."""
    connections: Literal["auto", "unlimited"] | Annotated[int, Field(ge=1000, le=10_000_000)] = "auto"
    """That one contract began and the kernel still follows. `auto`: a sixteenth of what it follows in all."""
    bandwidth_mbit: Literal["unlimited"] | Annotated[float, Field(ge=0.1, le=10_000)] = "unlimited"
    """Of one contract, each way, in millions of bits per second."""
    witnesses: Annotated[tuple[Annotated[str, AfterValidator(_witness)], ...], BeforeValidator(words)] = (
        *("1.1.1.1:443", "8.8.8.8:443", "[2606:4700:4700::1111]:443"),
    )
    """Not for tenants: who is asked whether the internet is there while the marketplace is silent."""
