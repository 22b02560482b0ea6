"""Re-listing at the same price or a lower one with a later end date extends the contracts that run on the machine."""

from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import offer
from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.offer import Listing
from kaalia.marketplace import listings
from kaalia.marketplace.db.tables import contracts
from kaalia.wire import document


async def extend(tx: AsyncConnection, machine_id: int, listing: Listing, now: datetime) -> int:
    """Move the end of each contract that the new terms do not make dearer; returns how many. Prices stay as agreed."""
    end_at = listings.end_of_offer(listing, now)
    rows = await tx.execute(
        sa.select(contracts.c.id, contracts.c.document, contracts.c.price_terms).where(
            contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None), contracts.c.removed_at.is_(None)
        )
    )
    extended = 0
    for row in rows.all():
        contract = document.decode(Contract, row.document)
        agreed = document.decode(Listing, row.price_terms)
        if _is_later(end_at, contract.end_at) and not _is_dearer(contract, agreed, listing):
            text = document.encode(replace(contract, end_at=end_at))
            await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(document=text))
            extended += 1
    return extended


def _is_later(new: datetime | None, old: datetime | None) -> bool:
    return old is not None and (new is None or new > old)


def _is_dearer(contract: Contract, agreed: Listing, listing: Listing) -> bool:
    """Interruptible rentals pay their own bid, so only the floor under it counts."""
    is_bid = contract.kind is ContractKind.INTERRUPTIBLE
    price_per_gpu = offer.bid_floor(listing) if is_bid else listing.price_gpu_per_hour
    return (
        price_per_gpu * max(contract.spec.gpu_count, 1) > contract.price_usd_per_hour
        or listing.price_disk_per_gb_month > agreed.price_disk_per_gb_month
    )
