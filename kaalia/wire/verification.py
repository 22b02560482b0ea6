"""Whether this machine is verified, and what it takes, as the local API tells it."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.model.selftest import RequirementVerdict
from kaalia.model.verification import VerificationView


@dataclass(frozen=True, slots=True)
class VerificationDocument:
    """`state`: as the marketplace said it last, "" when it never did; `told_at`: since when it says so.

    `view`: why, None: the marketplace is of an older version. `verdicts`: this machine's own look at the requirements,
    now; () when it has not read itself yet.
    """

    as_of: datetime
    is_enrolled: bool
    state: str
    told_at: datetime | None
    view: VerificationView | None
    verdicts: tuple[RequirementVerdict, ...] = ()
