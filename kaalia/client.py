"""A typed Python client of the daemon's local API: `LocalClient(Path("/run/kaalia/kaalia.sock")).status().problems`.

Plain blocking calls over a unix socket with the standard library, so that a command that asks one question starts fast.
"""

import http.client
import socket
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from kaalia.errors import KaaliaError, Problem, UnreachableError
from kaalia.model.machine import MachineReport
from kaalia.wire.availability import ReliabilityDocument
from kaalia.wire.canary import CanaryDocument
from kaalia.wire.health import HealthDocument
from kaalia.wire.ledger import LedgerDocument
from kaalia.wire.local import (
    ContractView,
    DaemonStatus,
    DiskLedger,
    DiskOrder,
    DrainOrder,
    DrainStatus,
    MeasureWish,
    PortsDocument,
    ReportDetails,
    SpeedDocument,
    SpeedWish,
)
from kaalia.wire.notification import NotifyDocument
from kaalia.wire.selftest_local import SelfTestDocument, SelfTestWish
from kaalia.wire.verification import VerificationDocument

T = TypeVar("T")

TIMEOUT_S = 10.0

_STATUS = TypeAdapter(DaemonStatus)
_HEALTH = TypeAdapter(HealthDocument)
_RELIABILITY = TypeAdapter(ReliabilityDocument)
_REPORT = TypeAdapter(MachineReport)
_DETAILS = TypeAdapter(ReportDetails)
_MEASURE_WISH = TypeAdapter(MeasureWish)
_CONTRACT = TypeAdapter(ContractView)
_CONTRACTS = TypeAdapter(tuple[ContractView, ...])
_LEDGER = TypeAdapter(LedgerDocument)
_DISK = TypeAdapter(DiskLedger)
_PORTS = TypeAdapter(PortsDocument)
_SPEED = TypeAdapter(SpeedDocument)
_SPEED_WISH = TypeAdapter(SpeedWish)
_CANARY = TypeAdapter(CanaryDocument)
_ORDERED = TypeAdapter(dict[str, str])
_DRAIN = TypeAdapter(DrainStatus)
_DRAIN_ORDER = TypeAdapter(DrainOrder)
_PROBLEM = TypeAdapter(Problem)
_NOTHING: TypeAdapter[str] = TypeAdapter(str)


class LocalError(KaaliaError):
    """The daemon answered, with a refusal."""


class LocalClient:
    """Each method is one request. Raises UnreachableError `daemon_not_running` or LocalError in the daemon's words."""

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def status(self) -> DaemonStatus:
        return self._get("/v1/status", _STATUS)

    def health(self) -> HealthDocument:
        return self._get("/v1/health", _HEALTH)

    def report(self) -> MachineReport:
        return self._get("/v1/report", _REPORT)

    def order_report(self) -> dict[str, str]:
        """Have the machine read anew, and the report sent; what is there now is told by `report` and `status`."""
        return self._get("/v1/report/send", _ORDERED, "POST")

    def report_details(self) -> ReportDetails:
        return self._get("/v1/report/details", _DETAILS)

    def order_measurement(self, wish: MeasureWish) -> ReportDetails:
        """Ask for it; what was known before."""
        return self._get("/v1/report/measure", _DETAILS, "POST", _MEASURE_WISH.dump_json(wish))

    def contracts(self) -> tuple[ContractView, ...]:
        return self._get("/v1/contracts", _CONTRACTS)

    def contract(self, contract_id: int) -> ContractView:
        return self._get(f"/v1/contracts/{contract_id}", _CONTRACT)

    def ledger(self) -> LedgerDocument:
        return self._get("/v1/ledger", _LEDGER)

    def disk(self) -> DiskLedger:
        """The newest measurement. Raises LocalError `no_disk_ledger` when there is none yet."""
        return self._get("/v1/disk", _DISK)

    def measured_disk(self) -> DiskLedger | None:
        """As `disk`; None when it was never measured."""
        try:
            return self.disk()
        except LocalError as error:
            if error.code != "no_disk_ledger":
                raise
            return None

    def order_disk(self, kind: DiskOrder) -> DiskLedger | None:
        """Ask for it; the ledger as it was before, None when the disk was never measured."""
        before = self.measured_disk()
        self._get(f"/v1/disk/{kind}", _ORDERED, "POST")
        return before

    def notifications(self) -> NotifyDocument:
        """Raises LocalError `notify_off` when the daemon's configuration names no channel."""
        return self._get("/v1/notifications", TypeAdapter(NotifyDocument))

    def ports(self) -> PortsDocument:
        return self._get("/v1/ports", _PORTS)

    def order_probe(self) -> PortsDocument:
        """Ask for a probe; what was known before it."""
        return self._get("/v1/ports/probe", _PORTS, "POST")

    def reliability(self) -> ReliabilityDocument:
        return self._get("/v1/reliability", _RELIABILITY)

    def verification(self) -> VerificationDocument:
        return self._get("/v1/verification", TypeAdapter(VerificationDocument))

    def speed(self) -> SpeedDocument:
        return self._get("/v1/speed", _SPEED)

    def order_speed(self, wish: SpeedWish) -> SpeedDocument:
        """Ask for a test; what was known before it."""
        return self._get("/v1/speed/test", _SPEED, "POST", _SPEED_WISH.dump_json(wish))

    def canary(self) -> CanaryDocument:
        return self._get("/v1/canary", _CANARY)

    def order_canary(self) -> CanaryDocument:
        """Ask for a run; what was known before it."""
        return self._get("/v1/canary/run", _CANARY, "POST")

    def self_test(self, run_id: int | None = None, *, samples: bool = False) -> SelfTestDocument:
        """The newest run, or this one. Raises LocalError `no_such_selftest`."""
        number = "" if run_id is None else f"&run={run_id}"
        return self._get(f"/v1/self-test?samples={int(samples)}{number}", TypeAdapter(SelfTestDocument))

    def order_self_test(self, wish: SelfTestWish) -> SelfTestDocument:
        """Ask for a run; the run that it becomes. Raises LocalError `selftest_under_way`, `selftest_not_enrolled`."""
        body = TypeAdapter(SelfTestWish).dump_json(wish)
        return self._get("/v1/self-test", TypeAdapter(SelfTestDocument), "POST", body)

    def cancel_self_test(self, run_id: int | None = None) -> SelfTestDocument:
        """Have the one that is open broken off, or this one. Raises LocalError `no_such_selftest`."""
        number = "" if run_id is None else f"?run={run_id}"
        return self._get(f"/v1/self-test{number}", TypeAdapter(SelfTestDocument), "DELETE")

    def drain(self) -> DrainStatus:
        return self._get("/v1/drain", _DRAIN)

    def cordon(self, until_at: datetime | None = None) -> DrainStatus:
        """Admit nothing new from now on; a cordon that is up gets the new date."""
        return self._get("/v1/drain", _DRAIN, "PUT", _DRAIN_ORDER.dump_json(DrainOrder(until_at)))

    def uncordon(self) -> DrainStatus:
        return self._get("/v1/drain", _DRAIN, "DELETE")

    def metrics(self, contract_id: int | None = None) -> str:
        """What Prometheus reads; of one contract: what its tenant may see."""
        query = "" if contract_id is None else f"?contract={contract_id}"
        status, raw = self._exchange(f"/metrics{query}", "GET", None)
        return raw.decode() if status == 200 else self._understood(status, raw, _NOTHING)

    def _get(self, path: str, document: TypeAdapter[T], method: str = "GET", body: bytes | None = None) -> T:
        return self._understood(*self._exchange(path, method, body), document)

    def _understood(self, status: int, raw: bytes, document: TypeAdapter[T]) -> T:
        try:
            envelope: dict[str, Any] = from_json(raw)
            if status == 200:
                return document.validate_python(envelope["data"])
            problem = _PROBLEM.validate_python(envelope["error"])
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise LocalError(
                "answer_not_understood",
                f"cannot understand what answers on {self._path}",
                remedy="give command and daemon the same version: restart the daemon after an update",
                evidence=str(error),
            ) from error
        raise LocalError(problem.code, problem.message, remedy=problem.remedy, evidence=problem.evidence)

    def _exchange(self, path: str, method: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except PermissionError as error:
            raise LocalError(
                "socket_forbidden",
                f"cannot open {self._path}: permission denied",
                remedy="use sudo, or join the group kaalia and log in again",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                "daemon_not_running",
                f"cannot reach the daemon at {self._path}: {getattr(error, 'strerror', None) or error}",
                remedy="start it with: systemctl start kaalia; or name its socket with --socket",
            ) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("kaalia", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
