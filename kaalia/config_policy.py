"""The section `policy` of the configuration: what the owner admits."""

from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from kaalia.config_section import Section, words


def _image_pattern(text: str) -> str:
    pattern = text.strip()
    if not pattern or len(pattern) > 512 or "://" in pattern or any(char.isspace() for char in pattern):
        raise ValueError("must be an image name, with * where anything fits, such as */xmrig*")
    return pattern


def _calendar_day(value: object) -> object:
    # pydantic takes a bare number for seconds since 1970, which nobody means by 2027.
    if isinstance(value, bool | int | float):
        raise ValueError("must be a day, such as 2027-06-30")
    return value


class PolicyConfig(Section):
    """What the owner admits, whatever a marketplace has signed; see `contracts.policy`. None: no limit."""

    min_price_gpu_per_hour: Decimal | None = Field(default=None, ge=0, le=10_000, allow_inf_nan=False)
    latest_end: Annotated[date, BeforeValidator(_calendar_day), Field(lt=date(9000, 1, 1))] | None = None
    """The last day, UTC, on which a rental may run."""
    max_duration_days: float | None = Field(default=None, gt=0, le=36_500, allow_inf_nan=False)
    banned_images: Annotated[tuple[Annotated[str, AfterValidator(_image_pattern)], ...], BeforeValidator(words)] = ()
    admit_default_jobs: bool = True
    admit_interruptible: bool = True
