"""The section `canary` of the configuration: the machine's own test container."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kaalia.config_section import Section


def _off(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class CanaryConfig(Section):
    every_hours: Annotated[Literal["off"] | Annotated[float, Field(ge=1, le=24 * 30)], BeforeValidator(_off)] = 6.0
    """How often an idle machine proves itself. `off`: never, not after a boot or an upgrade either, unless asked."""
