"""Who gets the GPUs when more contracts want them than there are: one rule, for the machine and for the marketplace.

    on-demand, reserved  >  interruptible, by its bid  >  the owner's default job  >  self-test

| rank      | among equals                                             | who may take its GPUs        |
|-----------|----------------------------------------------------------|------------------------------|
| firm      | who has GPUs keeps them, then the earlier start          | nobody                       |
| bid       | the higher bid per GPU, then the earlier start           | firm, higher bids            |
| owner job | the earlier start                                        | firm, bids                   |
| idle      | the earlier start                                        | everybody                    |

The last tie goes to the lower contract id. A container runs with the GPUs it was made with or not at all; everybody
else gets those whose loss hurts the lowest, all of one model. Nothing here stops anything: a winner whose GPUs others
still have waits.

A GPU that is not well (`fitness`) is given to nobody anew. Who has it keeps it. One who gave it back, and whose
container is made with it, gets it again where he rents it firmly; a bid or a job waits while it is known to be broken.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum

from kaalia.contracts import fitness
from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.fitness import Fault
from kaalia.contracts.slicing import choose_gpus, model_of
from kaalia.model.health import Severity
from kaalia.model.machine import Gpu

NOBODY_UNFIT: Mapping[str, Fault] = {}
BID_STEP = Decimal("0.001")
"""US dollars per GPU and hour between a bid and the next that wins over it."""


class Rank(IntEnum):
    """Lower is stronger."""

    FIRM = 0
    BID = 1
    OWNER_JOB = 2
    IDLE = 3


_RANKS = {
    ContractKind.ON_DEMAND: Rank.FIRM,
    ContractKind.RESERVED: Rank.FIRM,
    ContractKind.INTERRUPTIBLE: Rank.BID,
    ContractKind.DEFAULT_JOB: Rank.OWNER_JOB,
    ContractKind.SELFTEST: Rank.IDLE,
}


@dataclass(frozen=True, slots=True)
class Claimant:
    """A contract that shall run now. `made_with`: the GPUs built into its present container."""

    contract: Contract
    made_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`gpu_uuids`: what the contract gets; None: it loses. `pending`: those of them that others still have.

    `beaten_by`: the weakest rank among the winners that stand in a loser's way; None: it is not a matter of rank.
    """

    gpu_uuids: tuple[str, ...] | None
    pending: tuple[str, ...] = ()
    beaten_by: Rank | None = None
    reason: str = ""

    @property
    def runs(self) -> bool:
        return self.gpu_uuids is not None and not self.pending


def rank(kind: ContractKind) -> Rank:
    return _RANKS[kind]


def is_firm(kind: ContractKind) -> bool:
    """Nobody may take its GPUs while it runs."""
    return rank(kind) is Rank.FIRM


def bid_per_gpu(contract: Contract) -> Decimal:
    """US dollars per GPU and hour: what bids of different sizes are compared by."""
    return contract.price_usd_per_hour / max(contract.spec.gpu_count, 1)


def bid_to_win(rivals: Collection[Contract], num_gpus: int, gpu_count: int, floor: Decimal) -> Decimal | None:
    """The least bid per GPU with which a new contract of `gpu_count` GPUs would run now; None: no bid would.

    `rivals`: all other contracts of the machine that shall run; `num_gpus`: of the machine; `floor`: the owner's least.
    """
    room = num_gpus - gpu_count - sum(one.spec.gpu_count for one in rivals if is_firm(one.kind))
    if room < 0:
        return None
    bids = [one for one in rivals if rank(one.kind) is Rank.BID]
    for one in sorted(bids, key=bid_per_gpu, reverse=True):
        room -= one.spec.gpu_count
        if room < 0:
            return max(floor, bid_per_gpu(one) + BID_STEP)
    return floor


def arbitrate(
    claimants: Iterable[Claimant],
    gpus: Sequence[Gpu],
    owners: Mapping[str, int],
    leaving: Collection[int] = frozenset(),
    asleep: Collection[str] = frozenset(),
    unfit: Mapping[str, Fault] = NOBODY_UNFIT,
) -> dict[int, Verdict]:
    """A verdict for each claimant, by contract id.

    `owners`: UUID -> the contract that has it now. Of those that are no claimants, `leaving` are about to give
    theirs back; the GPUs of the others are out of reach. `gpus`: those that the driver shows.
    `asleep`: built into containers that nobody wants to run now; spared while there are others, since they can start
    with no others. `unfit`: by UUID, what is wrong with GPUs that are not well.
    """
    held: dict[int, list[str]] = defaultdict(list)
    for uuid, owner in owners.items():
        held[owner].append(uuid)
    order = sorted(claimants, key=lambda one: _order(one.contract, bool(held.get(one.contract.contract_id))))
    fixed = {one.contract.contract_id: _fixed(one, held) for one in order}
    needs = [fixed[one.contract.contract_id] for one in order]
    court = _Court(gpus, owners, set(fixed) | set(leaving), needs, set(asleep), unfit)
    return {
        one.contract.contract_id: court.judge(at, one.contract, fixed[one.contract.contract_id])
        for at, one in enumerate(order)
    }


def _order(contract: Contract, has_gpus: bool) -> tuple[Rank, bool, Decimal, datetime, int]:
    own = rank(contract.kind)
    is_moved = own is Rank.FIRM and not has_gpus
    bid = bid_per_gpu(contract) if own is Rank.BID else Decimal(0)
    return own, is_moved, -bid, contract.start_at, contract.contract_id


def _fixed(one: Claimant, held: Mapping[int, list[str]]) -> tuple[str, ...]:
    """The very GPUs it needs; empty: any will do."""
    if one.contract.spec.gpu_count == 0:
        return ()
    mine = tuple(held.get(one.contract.contract_id, ()))
    return mine if mine and len(mine) == one.contract.spec.gpu_count else one.made_with


class _Court:
    """Judges claimants in their order; each verdict leaves less for the next."""

    def __init__(
        self,
        gpus: Sequence[Gpu],
        owners: Mapping[str, int],
        reachable: Collection[int],
        needs: Sequence[tuple[str, ...]],
        asleep: set[str],
        unfit: Mapping[str, Fault],
    ) -> None:
        self._gpus = gpus
        self._unfit = unfit
        self._seen = {gpu.uuid for gpu in gpus}
        self._owners = owners
        self._asleep = asleep
        self._taken: dict[str, Rank | None] = {uuid: None for uuid, owner in owners.items() if owner not in reachable}
        self._needed_at: dict[str, list[int]] = defaultdict(list)
        for at, uuids in enumerate(needs):
            for uuid in uuids:
                self._needed_at[uuid].append(at)

    def judge(self, at: int, contract: Contract, fixed: tuple[str, ...]) -> Verdict:
        verdict = self._judge_fixed(contract, fixed) if fixed else self._judge_free(at, contract)
        self._taken |= dict.fromkeys(verdict.gpu_uuids or (), rank(contract.kind))
        return verdict

    def _judge_fixed(self, contract: Contract, fixed: tuple[str, ...]) -> Verdict:
        for uuid in fixed:
            if uuid in self._taken:
                reason = f"waits for {uuid}, which another contract uses"
                return Verdict(None, beaten_by=self._taken[uuid], reason=reason)
            if self._owners.get(uuid) == contract.contract_id:
                continue
            if uuid not in self._seen:
                return Verdict(None, reason=f"waits for {uuid}, which the driver does not show")
            if self._is_broken(uuid) and not is_firm(contract.kind) and contract.kind is not ContractKind.SELFTEST:
                told = fitness.gpu_words(uuid, self._unfit[uuid])
                return Verdict(None, reason=f"waits for its GPU to be well: {told}")
        return self._granted(contract, fixed)

    def _is_broken(self, uuid: str) -> bool:
        return uuid in self._unfit and self._unfit[uuid].severity is Severity.CRITICAL

    def _judge_free(self, at: int, contract: Contract) -> Verdict:
        count, barred = contract.spec.gpu_count, fitness.barred(contract, self._unfit)
        siblings = [gpu for gpu in self._gpus if contract.gpu_model in (None, model_of(gpu))]
        suited = {gpu.uuid for gpu in siblings} - barred
        if sum(uuid not in self._taken for uuid in suited) >= count:
            for spared in self._spared(at, contract.contract_id):
                chosen = choose_gpus(siblings, self._taken.keys() | spared | barred, count)
                if chosen is not None:
                    return self._granted(contract, chosen)
        free = sum(uuid not in self._taken and uuid not in self._owners for uuid in suited)
        winners = [one for uuid, one in self._taken.items() if one is not None and uuid in suited]
        reason = f"waits for {count} GPUs, {free} of {len(siblings)} are free"
        return Verdict(None, beaten_by=max(winners, default=None), reason=reason)

    def _spared(self, at: int, contract_id: int) -> Iterable[set[str]]:
        """GPUs to leave alone, the widest choice last: in use or built into others, needed by the next in rank."""
        hurts = {uuid: self._next_need(uuid, at) for uuid in self._seen}
        needed = {uuid for uuid, need in hurts.items() if need is not None}
        in_use = {uuid for uuid, owner in self._owners.items() if owner != contract_id}
        yield needed | in_use | self._asleep
        yield needed | in_use
        yield needed
        for limit in sorted({need for need in hurts.values() if need is not None}, reverse=True):
            yield {uuid for uuid, need in hurts.items() if need is not None and need < limit}

    def _next_need(self, uuid: str, at: int) -> int | None:
        """The place of the first claimant after this one that needs the GPU."""
        places = self._needed_at.get(uuid, [])
        later = bisect_right(places, at)
        return places[later] if later < len(places) else None

    def _granted(self, contract: Contract, uuids: tuple[str, ...]) -> Verdict:
        pending = tuple(uuid for uuid in uuids if self._owners.get(uuid, contract.contract_id) != contract.contract_id)
        reason = f"waits for {', '.join(pending)}, which another contract is giving up" if pending else ""
        return Verdict(uuids, pending, reason=reason)
