"""Charges, invoices and earnings as the public API shows them. Money leaves as numbers, at most nine digits exact."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from kaalia.marketplace.billing import Charge, Use, reckon
from kaalia.marketplace.deposits import Forfeit
from kaalia.model.metering import TRAFFIC, Meter
from kaalia.units import GB

DAY = timedelta(days=1)
_WORDS = {
    Meter.RUN: "GPU",
    Meter.DISK: "storage",
    Meter.VOLUME: "storage",
    Meter.INET_UP: "upload",
    Meter.INET_DOWN: "download",
}
_TYPES = {
    Meter.RUN: "gpu",
    Meter.DISK: "storage",
    Meter.VOLUME: "storage",
    Meter.INET_UP: "bwu",
    Meter.INET_DOWN: "bwd",
}


def charge_rows(found: Sequence[Charge]) -> list[dict[str, Any]]:
    """One result for each instance and each volume, with its lines as items; oldest first."""
    by_whom: dict[tuple[str, int], list[Charge]] = defaultdict(list)
    for charge in found:
        by_whom[_kind(charge), charge.line.contract_id].append(charge)
    return [_row(kind, number, charges) for (kind, number), charges in by_whom.items()]


def _kind(charge: Charge) -> str:
    return "volume" if charge.line.meter is Meter.VOLUME else "instance"


def _row(kind: str, number: int, found: Sequence[Charge]) -> dict[str, Any]:
    return {
        "type": kind,
        "source": f"{kind}-{number}",
        "amount": _sum(found),
        "start": min(charge.line.started_at for charge in found).timestamp(),
        "end": max(charge.line.ended_at for charge in found).timestamp(),
        "description": f"{kind.capitalize()} {number} on machine {found[0].machine_id}",
        "metadata": {f"{kind}_id": number, "machine_id": found[0].machine_id},
        "items": [_item(charge) for charge in found],
    }


def _item(charge: Charge) -> dict[str, Any]:
    return {
        "type": _TYPES[charge.line.meter],
        "source": None,
        "amount": float(charge.line.amount_usd),
        "start": charge.line.started_at.timestamp(),
        "end": charge.line.ended_at.timestamp(),
        "description": _description(charge),
        "metadata": {"charge_id": charge.charge_id},
        "items": [],
    }


def _description(charge: Charge) -> str:
    if charge.line.meter in TRAFFIC:
        price = f"${_usd_per_gb(charge):.6f}/GB"
        return f"internet {_WORDS[charge.line.meter]}: {charge.quantity / GB:.6f} GB at {price}"
    used = f"{charge.quantity} GPUs" if charge.line.meter is Meter.RUN else f"{charge.quantity / GB:g} GB"
    return f"{_WORDS[charge.line.meter]} ({used}): {charge.line.hours:.4f} h at ${charge.line.usd_per_hour:.6f}/h"


def _usd_per_gb(charge: Charge) -> Decimal:
    return charge.line.amount_usd * GB / charge.quantity if charge.quantity else Decimal(0)


def old_charge_rows(found: Iterable[Charge]) -> list[dict[str, Any]]:
    """As `show invoices` reads them: one row for each line."""
    return [
        {
            "id": charge.charge_id,
            "instance_id": None if charge.line.meter is Meter.VOLUME else charge.line.contract_id,
            "machine_id": charge.machine_id,
            "type": "charge",
            "description": f"{_kind(charge).capitalize()} {charge.line.contract_id} {_WORDS[charge.line.meter]}",
            **_quantity(charge),
            "amount": float(charge.line.amount_usd),
            "timestamp": charge.line.ended_at.timestamp(),
        }
        for charge in found
    ]


def _quantity(charge: Charge) -> dict[str, str]:
    """Hours, or GB of traffic, and the price of one."""
    if charge.line.meter in TRAFFIC:
        return {"quantity": f"{charge.quantity / GB:.6f}", "rate": f"{_usd_per_gb(charge):.6f}"}
    return {"quantity": f"{charge.line.hours:.6f}", "rate": f"{charge.line.usd_per_hour:.6f}"}


def old_invoice_row(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "instance_id": None,
        "type": "payment" if Decimal(row.amount) >= 0 else "charge",
        "description": row.description,
        "quantity": "1",
        "rate": row.amount,
        "amount": float(row.amount),
        "timestamp": row.when,
    }


def invoice_row(row: sa.Row[Any]) -> dict[str, Any]:
    """The client turns the sign of everything but transfers and payouts, so what was put in is negative here."""
    amount = float(row.amount)
    return {
        "type": row.type,
        "source": row.service,
        "amount": amount if row.type in ("transfer", "payout") else -amount,
        "start": row.when,
        "end": row.paid_on,
        "description": row.description,
        "metadata": {"invoice_id": row.id, "service": row.service},
        "items": [],
    }


def searched_row(row: sa.Row[Any]) -> dict[str, Any]:
    """As `search invoices` reads it. This marketplace takes no payments, so what concerns payments is null."""
    unused = ("cut_amount", "cut_percent", "stripe_charge", "stripe_refund", "stripe_payout", "error", "event_id")
    return {
        **dict.fromkeys((*unused, "paypal_email", "transfer_group", "payment_expected", "extra")),
        "id": row.id,
        "user_id": row.user_id,
        "when": row.when,
        "paid_on": row.paid_on,
        "amount_cents": float(Decimal(row.amount) * 100),
        "original_amount": float(row.amount),
        "is_credit": Decimal(row.amount) >= 0,
        "is_delayed": False,
        "is_check": False,
        "failed": False,
        "refunded": False,
        "service": row.service,
        "type": row.type,
        "description": row.description,
    }


def earnings(
    used: Sequence[Use], kept: Sequence[Forfeit], days: tuple[datetime, datetime], now: datetime
) -> dict[str, Any]:
    """Sums by machine and by day, from the first to the last of `days`, both included.

    What early ends of reserved contracts cost is earned by GPUs: it makes up for their discount.
    """
    by_machine: dict[int, dict[Meter, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    total: dict[Meter, Decimal] = defaultdict(Decimal)
    first, last = days
    for charge in reckon(used, first, min(last + DAY, now)):
        by_machine[charge.machine_id][charge.line.meter] += charge.line.amount_usd
        total[charge.line.meter] += charge.line.amount_usd
    for one in _between(kept, first, last + DAY):
        by_machine[one.machine_id][Meter.RUN] += one.amount_usd
        total[Meter.RUN] += one.amount_usd
    return {
        "summary": {
            "total_gpu": float(total[Meter.RUN]),
            "total_stor": float(total[Meter.DISK] + total[Meter.VOLUME]),
            "total_bwu": float(total[Meter.INET_UP]),
            "total_bwd": float(total[Meter.INET_DOWN]),
        },
        "per_machine": [{"machine_id": key, **_earned(sums)} for key, sums in sorted(by_machine.items())],
        "first_day": first.date().isoformat(),
        "last_day": last.date().isoformat(),
        "per_day": _per_day(used, kept, days, now),
    }


def _per_day(
    used: Iterable[Use], kept: Sequence[Forfeit], days: tuple[datetime, datetime], now: datetime
) -> list[dict[str, Any]]:
    first, last = days
    found: dict[datetime, list[Charge]] = {first + DAY * number: [] for number in range((last - first).days + 1)}
    for one in used:
        # Each use is asked for its own days only: most are shorter than the time in question.
        day, ends = max(first, start_of_day(one.owed.started_at)), min(last + DAY, one.owed.ended_at or now)
        while day < ends:
            found[day].extend(reckon([one], day, min(day + DAY, now)))
            day += DAY
    return [_day_row(day, charges, kept) for day, charges in found.items()]


def _day_row(day: datetime, found: Iterable[Charge], kept: Iterable[Forfeit]) -> dict[str, Any]:
    """`day`: its number since 1970."""
    sums: dict[Meter, Decimal] = defaultdict(Decimal)
    for charge in found:
        sums[charge.line.meter] += charge.line.amount_usd
    sums[Meter.RUN] += kept_usd(_between(kept, day, day + DAY))
    return {"day": int(day.timestamp() // DAY.total_seconds()), **_earned(sums)}


def kept_usd(kept: Iterable[Forfeit]) -> Decimal:
    return sum((one.amount_usd for one in kept), Decimal(0))


def _between(kept: Iterable[Forfeit], since: datetime, until: datetime) -> list[Forfeit]:
    return [one for one in kept if since <= one.at < until]


def start_of_day(at: datetime) -> datetime:
    return datetime(at.year, at.month, at.day, tzinfo=UTC)


def _earned(sums: dict[Meter, Decimal]) -> dict[str, float]:
    return {
        "gpu_earn": float(sums.get(Meter.RUN, 0)),
        "sto_earn": float(sums.get(Meter.DISK, Decimal(0)) + sums.get(Meter.VOLUME, Decimal(0))),
        "bwu_earn": float(sums.get(Meter.INET_UP, 0)),
        "bwd_earn": float(sums.get(Meter.INET_DOWN, 0)),
    }


def _sum(found: Iterable[Charge]) -> float:
    return float(sum((charge.line.amount_usd for charge in found), Decimal(0)))
