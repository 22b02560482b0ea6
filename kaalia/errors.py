"""The one error tree.

KaaliaError
├── ConfigError        the owner's configuration or command line is wrong
├── HostError          a command, kernel file, driver or disk of this machine did not do its part
├── WorkloadError      image, container engine or workload
├── ContractError      a rule of the rental refuses
├── StoreError         the state database
└── MarketplaceError   the other side refused, or is not reachable
    ├── UnreachableError   nothing answered: try again later
    └── UnauthorizedError  the signature or the key was refused: trying again does not help

Every error carries a stable `code` (documented in docs/errors.md), a sentence that begins with
"cannot" and holds the offending value, a `remedy` and optional `evidence` (verbatim outside text).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as data: fit for the store, the wire and a table."""

    code: str
    message: str
    remedy: str = ""
    evidence: str = ""


class KaaliaError(Exception):
    """Base of all errors kaalia raises on purpose."""

    def __init__(self, code: str, message: str, *, remedy: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(code, message, remedy, evidence)

    @property
    def code(self) -> str:
        return self.problem.code

    def __str__(self) -> str:
        text = f"{self.problem.message} [{self.problem.code}]"
        return f"{text}. Remedy: {self.problem.remedy}" if self.problem.remedy else text


class ConfigError(KaaliaError):
    """The configuration or the command line is wrong."""


class HostError(KaaliaError):
    """Something of this machine failed or timed out."""


class WorkloadError(KaaliaError):
    """An image, the container engine or a workload failed."""


class ContractError(KaaliaError):
    """A rule of the rental refuses."""


class StoreError(KaaliaError):
    """The state database cannot be used."""


class MarketplaceError(KaaliaError):
    """The marketplace refused a request. `status` is the HTTP status, 0 when there was no answer.

    `retry_after_s`: how long the marketplace asked to be left alone, None when it did not say.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        remedy: str = "",
        evidence: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, remedy=remedy, evidence=evidence)
        self.status = status
        self.retry_after_s = retry_after_s


class UnreachableError(MarketplaceError):
    """Nothing answered; worth another try."""


class UnauthorizedError(MarketplaceError):
    """The key or the signature was refused."""
