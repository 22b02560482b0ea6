"""Tests of the whole machine, as the local API orders and shows them."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.model.selftest import Sample, SelfTestProgress, SelfTestRun, StepName


@dataclass(frozen=True, slots=True)
class SelfTestWish:
    """`only`: these steps, empty: all. `burn_s` None: as long as a full or a quick test takes by itself."""

    is_quick: bool = False
    only: tuple[StepName, ...] = ()
    burn_s: float | None = None


@dataclass(frozen=True, slots=True)
class SelfTestDocument:
    """`run`: the newest, or the one that was asked for; None: the machine was never tested.

    `progress`: where it is, None: it does not run. `samples`: of one that is asked for with them.
    """

    as_of: datetime
    run: SelfTestRun | None
    progress: SelfTestProgress | None = None
    samples: tuple[Sample, ...] = ()
