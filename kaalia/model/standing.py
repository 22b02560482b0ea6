"""How the marketplace sees a machine, as it tells the machine's daemon."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.model.verification import VerificationView

OFFLINE_AFTER = timedelta(seconds=180)
"""When a marketplace counts a machine as offline."""


@dataclass(frozen=True, slots=True)
class RenterReport:
    """What a renter reported of the machine, in his words: text of a stranger. Who wrote it is not told."""

    report_id: int
    problem: str
    message: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """`verification`: unverified, verified or deverified. `reports`: the newest few, the newest first."""

    verification: str
    reports: tuple[RenterReport, ...] = ()
    view: VerificationView | None = None
    """Why it is so, and what it takes. None: an older marketplace."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The marketplace was not heard of from `since` to `until`."""

    since: datetime
    until: datetime
