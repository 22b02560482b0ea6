"""What this machine should do for each contract now, and when that may change by itself.

    new ──▶ reject      against the owner's terms or policy, or over before it began: final for its generation
     │
     └────▶ wait        the machine is not known yet or not well, the marketplace's last word is too old, GPUs are taken
             │
             ▼
            run ◀──▶ yield (one of higher rank has its GPUs; comes back by itself: see `arbitration`)
             ▲
             └─────▶ stop (the renter's wish, or expired) ──▶ end (signed tombstone, or missing for long)

Terms and policy are asked for new contracts only (`newcomers`): what runs was agreed to. Nothing here stops a workload
because something is not known.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from kaalia.contracts import arbitration, fitness, newcomers
from kaalia.contracts.arbitration import Claimant, Rank, Verdict
from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind, Desired
from kaalia.contracts.lease import LeaseTime, Standing, certain, standing
from kaalia.contracts.slicing import all_known
from kaalia.contracts.wish import Held, Machine, Plan, Want, Wish
from kaalia.model.health import Severity
from kaalia.model.workload import WorkloadState

MISSING_REVISIONS = 2
MISSING_GRACE = timedelta(minutes=30)
"""A contract that snapshots leave out ends only after both."""
MAYBE_OVER = "scheduling: the contract may have ended, and the time of the machine is not confirmed yet"
_OCCUPIES = frozenset(
    {
        WorkloadState.PULLING,
        WorkloadState.CREATING,
        WorkloadState.STARTING,
        WorkloadState.RUNNING,
        WorkloadState.STOPPING,
        WorkloadState.EXITED,
        WorkloadState.REMOVING,
        WorkloadState.UNKNOWN,
    }
)
"""States in which a contract without GPUs has the machine, as one with GPUs has its GPUs."""
_MACHINE_TAKEN = "scheduling: waits for the machine, which another contract uses"
_JOBS_TAKEN = "scheduling: waits for another default job to end: there is one for each GPU"


def plan(held: Iterable[Held], machine: Machine, now: datetime) -> Plan:
    """Decide every contract: first what it may do by itself, then who gets the GPUs.

    A contract without GPUs has all of the machine, so such contracts run one at a time.
    """
    contracts = sorted(held, key=lambda one: (one.contract.start_at, one.contract.contract_id))
    disk_bytes = machine.volume_bytes + sum(one.contract.spec.disk_bytes for one in contracts if one.has_disk)
    decided: list[tuple[Held, Wish | None]] = []
    jobs_left = newcomers.jobs_left(contracts, machine)
    for one in contracts:
        wish = _decide(one, machine, disk_bytes, now)
        if wish is None and one.is_new and one.contract.kind is ContractKind.DEFAULT_JOB:
            jobs_left -= 1
            wish = Wish(one.contract, Want.WAIT, reason=_JOBS_TAKEN) if jobs_left < 0 else None
        is_admitted = wish is None or wish.want is Want.STOP
        if is_admitted and not one.has_disk:
            disk_bytes += one.contract.spec.disk_bytes
        decided.append((one, wish))
    verdicts = _verdicts(decided, machine)
    wishes = [wish or _judged(one, verdicts[one.contract.contract_id], machine) for one, wish in decided]
    changes = [at for one in contracts for at in _changes(one)]
    changes += [one.end_at for one in machine.windows] + ([machine.reopens_at] if machine.reopens_at else [])
    next_change_at = min((at for at in changes if at > now), default=None)
    return Plan(tuple(_one_at_a_time(contracts, wishes)), next_change_at)


def _decide(one: Held, machine: Machine, disk_bytes: int, now: datetime) -> Wish | None:
    """What is known without looking at the others; None: it shall run, when it gets its GPUs."""
    contract = one.contract
    if contract.desired is Desired.ENDED or is_abandoned(one.missing_since, one.missing_revisions, now):
        return Wish(contract, Want.END, reason="ended by the marketplace")
    if one.is_new:
        refusal = newcomers.refusal(one, machine, now) or newcomers.over_disk(one, machine.report, disk_bytes)
        if refusal is not None:
            return Wish(contract, Want.REJECT, problem=refusal)
    # Before its renter's wish to have it stopped: what is stopped counts as admitted, and may be started.
    if one.is_new and (reason := newcomers.why_waiting(one, machine, now)):
        return Wish(contract, Want.WAIT, reason=reason)
    time = certain(now) if machine.latest_at is None else LeaseTime(now, machine.latest_at, is_certain=False)
    lease = standing(contract.end_at, time)
    if (stop := _must_stop(one, lease)) is not None:
        return stop
    if lease is Standing.IN_DOUBT:
        return Wish(contract, Want.WAIT, reason=MAYBE_OVER)
    if machine.is_cordoned and contract.kind is ContractKind.DEFAULT_JOB:
        return Wish(contract, Want.YIELD, reason=_DRAINED)
    return Wish(contract, Want.RUN) if _has_given_up(one) else None


def _must_stop(one: Held, lease: Standing) -> Wish | None:
    contract = one.contract
    if lease is Standing.OVER:
        return Wish(contract, Want.STOP, reason=f"stopped: the contract ended at {contract.end_at:%Y-%m-%d %H:%M} UTC")
    if contract.desired is Desired.STOPPED:
        return Wish(contract, Want.STOP, reason="stopped")
    if one.too_large is not None and one.too_large.is_exceeded:
        problem = one.too_large.problem
        words = (f"{problem.message}. {problem.remedy}", _not_made(one))
        return Wish(contract, Want.STOP, reason="; ".join(filter(None, words)), problem=problem)
    return None


def _has_given_up(one: Held) -> bool:
    """It did not come up, and nobody has asked for another try: it needs no GPUs, so that nobody yields to it."""
    status, contract = one.workload, one.contract
    if status is None or status.state is not WorkloadState.FAILED or status.answered < contract.generation:
        return False
    return status.restarts_done >= contract.restart_count


def _verdicts(decided: Iterable[tuple[Held, Wish | None]], machine: Machine) -> dict[int, Verdict]:
    claimants, leaving, asleep = [], set(), set[str]()
    for one, wish in decided:
        if wish is None:
            claimants.append(Claimant(one.contract, _made_with(one)))
            continue
        if wish.want in (Want.STOP, Want.YIELD, Want.END):
            leaving.add(one.contract.contract_id)
        if wish.want is not Want.END:
            asleep.update(_made_with(one))
    gpus = machine.report.gpus if machine.report else ()
    return arbitration.arbitrate(claimants, gpus, machine.gpu_owners, leaving, asleep, machine.unfit)


def _judged(one: Held, verdict: Verdict, machine: Machine) -> Wish:
    """The arbiter's word as a wish. Only losing to a rank stops anything: a GPU that is not seen is waited for."""
    contract = one.contract
    if verdict.runs:
        warnings = (
            _not_made(one),
            one.too_large.warning if one.too_large else "",
            _gpu_warning(verdict.gpu_uuids or (), machine),
            _address_warning(one, machine),
            one.notice,
        )
        return Wish(contract, Want.RUN, verdict.gpu_uuids or (), warning="; ".join(filter(None, warnings)))
    if verdict.beaten_by is None or arbitration.is_firm(contract.kind):
        return Wish(contract, Want.WAIT, reason=f"scheduling: {verdict.reason}")
    return Wish(contract, Want.YIELD, reason=_LOST_TO[verdict.beaten_by])


def _not_made(one: Held) -> str:
    """That the newer generation which was asked for could not be made."""
    row = one.workload
    is_known = row is not None and row.not_made is not None and row.not_made.generation >= one.contract.generation
    return row.not_made.warning if row is not None and row.not_made is not None and is_known else ""


def _gpu_warning(uuids: Iterable[str], machine: Machine) -> str:
    """Of GPUs that it runs on: those known to be broken, and those that the driver, which answers, does not show."""
    unfit, told = machine.unfit, []
    seen = {gpu.uuid for gpu in machine.report.gpus} if machine.report and all_known(machine.report) else None
    for uuid in uuids:
        if uuid in unfit and unfit[uuid].severity is Severity.CRITICAL:
            told.append(fitness.gpu_words(uuid, unfit[uuid]))
        elif seen and uuid not in seen:
            told.append(f"the driver no longer shows {uuid}; {fitness.LEAVE_IT}")
    return "; ".join(told)


def _address_warning(one: Held, machine: Machine) -> str:
    """The variables of a process that runs cannot be changed, nor those that its next start gets."""
    now = machine.report.network.public_ip if machine.report else None
    made, contract = one.workload, one.contract
    told = made.public_ipaddr if made is not None and made.answered >= contract.generation else None
    if now is None or told in (None, now):
        return ""
    return f"this machine's address is {now} now; PUBLIC_IPADDR inside stays {told} until it is recycled"


_LOST_TO = {
    Rank.FIRM: "paused: an on-demand rental has the GPUs; resumes by itself when they are free",
    Rank.BID: "outbid: a higher bid has the GPUs; resumes by itself when they are free, or when its bid is raised",
    Rank.OWNER_JOB: "paused: a job of the owner has the GPUs; resumes by itself when they are free",
    Rank.IDLE: "paused: a test of the machine has the GPUs; resumes by itself when they are free",
}


_DRAINED = "paused: the owner drains the machine; resumes by itself when he no longer does"


def _one_at_a_time(contracts: Iterable[Held], wishes: Iterable[Wish]) -> Iterable[Wish]:
    """Of the contracts without GPUs, who has the machine keeps it; the others wait.

    The owner's own work has it while nobody rents anything, one at a time, and gives way first.
    """
    wanted, whole = list(wishes), [one for one in contracts if one.contract.spec.gpu_count == 0]
    tenant = next((one.contract.contract_id for one in whole if _is_rented(one.contract) and _occupies(one)), None)
    leaving = {one.contract.contract_id for one in whole if not _is_rented(one.contract) and _holds(one)}
    given_up = {one.contract.contract_id for one in whole if _has_given_up(one)}
    running = [one.contract for one in wanted if one.want is Want.RUN and one.contract.contract_id not in given_up]
    rented = next((one for one in running if _is_rented(one)), None)
    own = [one for one in running if not _is_rented(one) and one.spec.gpu_count == 0]
    first = min(own, key=lambda one: (arbitration.rank(one.kind), one.start_at, one.contract_id), default=None)
    for wish in wanted:
        contract_id, is_whole = wish.contract.contract_id, wish.contract.spec.gpu_count == 0
        if wish.want is not Want.RUN or not is_whole or contract_id in given_up:
            yield wish
        elif _is_rented(wish.contract):
            mine = tenant or contract_id
            has_room = contract_id == tenant or (contract_id == mine and not leaving)
            tenant = mine
            yield wish if has_room else Wish(wish.contract, Want.WAIT, reason=_MACHINE_TAKEN)
        elif winner := rented or (first if first is not wish.contract else None):
            yield Wish(wish.contract, Want.YIELD, reason=_LOST_TO[arbitration.rank(winner.kind)])
        else:
            yield wish if not leaving - {contract_id} else Wish(wish.contract, Want.WAIT, reason=_MACHINE_TAKEN)


def _is_rented(contract: Contract) -> bool:
    return contract.kind not in OWN_KINDS


def _holds(one: Held) -> bool:
    """It uses the machine now, and stops when it is told to."""
    return one.workload is not None and one.workload.state in _OCCUPIES - {WorkloadState.EXITED}


def _occupies(one: Held) -> bool:
    return one.workload is not None and one.workload.state in _OCCUPIES


def is_abandoned(missing_since: datetime | None, missing_revisions: int, now: datetime) -> bool:
    """Newer words of the marketplace left it out twice, and for half an hour: nobody will ask for it again."""
    if missing_since is None or missing_revisions < MISSING_REVISIONS:
        return False
    return now >= missing_since + MISSING_GRACE


def _changes(one: Held) -> Iterable[datetime]:
    if one.contract.end_at is not None:
        yield one.contract.end_at
    if one.missing_since is not None:
        yield one.missing_since + MISSING_GRACE


def _made_with(one: Held) -> tuple[str, ...]:
    """The GPUs that are built into its present container."""
    status = one.workload
    is_current = status is not None and one.is_present and status.answered >= one.contract.generation
    return status.gpu_uuids if status and is_current else ()
