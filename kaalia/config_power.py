"""The section `power` of the configuration: what the GPUs may draw, and how fast they may run, by what they do."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from kaalia.config_section import Section

Watts = Annotated[float, Field(ge=10, le=5000)]
Megahertz = Annotated[int, Field(ge=100, le=10_000)]


class LimitsConfig(Section):
    """None: what the driver gives by itself."""

    power_w: Watts | None = None
    """Of each GPU."""
    clock_max_mhz: Megahertz | None = None
    """Of the SMs."""


class GuardConfig(Section):
    """A GPU that is too hot draws less until it has cooled down, whatever it does."""

    above_c: int | None = Field(default=None, ge=50, le=110)
    """None: no guard."""
    below_c: int = Field(default=70, ge=30, le=105)
    power_w: Watts | None = None
    """None: the least that the GPU can be limited to."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.above_c is not None and self.below_c >= self.above_c:
            raise ValueError(f"must have below_c ({self.below_c}) less than above_c ({self.above_c})")
        return self


class PowerConfig(Section):
    enabled: bool = False
    idle: LimitsConfig = LimitsConfig()
    rented: LimitsConfig = LimitsConfig()
    default_job: LimitsConfig = LimitsConfig()
    guard: GuardConfig = GuardConfig()
