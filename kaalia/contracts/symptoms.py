"""Cause hides symptom: whoever reads what is wrong is told the cause, whichever part of the daemon found it."""

from collections.abc import Iterable

from kaalia.model.health import HOST, OpenCondition, Severity


def causes(found: Iterable[OpenCondition]) -> tuple[OpenCondition, ...]:
    """Those that are no symptom of another that stands too, in their order. Two that hide each other are both told."""
    stands = tuple(found)
    return tuple(one for one in stands if not any(_hides(other, one) and not _hides(one, other) for other in stands))


def _hides(cause: OpenCondition, symptom: OpenCondition) -> bool:
    """By `hidden_by` of the symptom: codes, or how they begin where a * ends them. What is worse is never hidden."""
    if cause is symptom or cause.condition.scope not in (symptom.condition.scope, HOST):
        return False
    if cause.condition.severity is Severity.WARN and symptom.condition.severity is not Severity.WARN:
        return False
    code = cause.condition.problem.code
    return any(
        code.startswith(named[:-1]) if named.endswith("*") else code == named for named in symptom.condition.hidden_by
    )
