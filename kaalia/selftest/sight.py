"""What the store says of whether a self-test may begin, and of who comes while it runs."""

from kaalia.contracts import canary as canary_rules
from kaalia.contracts import fitness
from kaalia.contracts.canary import Room
from kaalia.contracts.selftest import Sight
from kaalia.store import canary, claims, conditions, contracts, machine, speed
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Transaction


def look(tx: Transaction, *, time_problem: bool) -> tuple[Sight, Room]:
    """And the GPUs that a run may book: those that are well and that nobody has."""
    report = machine.get_report(tx)
    unfit = fitness.kept_from_tests(fitness.of_gpus(fitness.faults(conditions.all_open(tx))))
    seen = Sight(
        report=report,
        owners={one.key: one.contract_id for one in claims.all_claims(tx) if one.kind is ClaimKind.GPU},
        kinds={one.contract.contract_id: one.contract.kind for one in contracts.all_contracts(tx)},
        rented=tuple(sorted(speed.awake_tenants(tx))),
        well=frozenset(gpu.uuid for gpu in report.gpus if gpu.uuid not in unfit) if report else frozenset(),
        canary_runs=canary.get(tx).running_since is not None,
        time_problem=time_problem,
    )
    if report is None:
        return seen, Room(why_not="the machine is looked at")
    found = canary_rules.room(report, seen.owners, seen.kinds, len(seen.rented), unfit)
    # No GPU that is free is well: its container still proves the rest.
    return seen, found if found.groups else Room(note=found.note or found.why_not)
