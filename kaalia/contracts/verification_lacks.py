"""What a machine lacks to be verified, in words that its owner can act on. Pure."""

from collections.abc import Iterator
from datetime import timedelta

from kaalia.contracts import fitness
from kaalia.contracts.verification_news import BARRED, CAPACITY, DATA, TEST_FAILED, News, counts, unmet
from kaalia.model.selftest import RunResult
from kaalia.model.verification import Lack, Verification


def all_lacks(known: Verification, news: News) -> Iterator[Lack]:
    """What keeps it from being verified, with what to do about each."""
    if news.refused:
        yield Lack("refused", news.refused)
    yield from _of_report(news)
    if news.conditions is None:
        yield Lack("conditions_untold", "its daemon does not tell what is wrong with it", remedy="update kaalia")
    yield from _of_faults(known, news)
    yield from _of_tests(known, news)


def _of_report(news: News) -> Iterator[Lack]:
    if news.facts is None:
        yield Lack("no_report", "the machine has not reported what it is", remedy="see kaalia status")
    else:
        for one in unmet(news.facts):
            yield Lack(one.requirement, one.words, one.actual, one.required, one.remedy)
        if news.capacity is None:
            words = "its driver does not show all GPUs, so that nobody knows what it has"
            yield Lack("capacity_unknown", words, remedy="kaalia doctor")
    if news.elsewhere:
        words = f"{news.elsewhere} of its GPUs are in another machine, by what that one says"
        remedy = "switch the other one on without them, or delete it; or wait a day, if it is off"
        yield Lack("gpus_elsewhere", words, remedy=remedy)


def _of_faults(known: Verification, news: News) -> Iterator[Lack]:
    standing = {cause.code for cause in known.causes}
    for cause in known.causes:
        if cause.gone_at is not None and not counts(cause, news.now):
            continue
        state = "" if cause.gone_at is None else "; it is over since a short while, and must stay so"
        yield Lack(cause.code, f"{cause.words}{state}", remedy=_remedy(cause.code))
    for fault in news.faults:
        if fault.code not in standing:
            yield Lack(fault.code, fault.message or fitness.words(fault), remedy=_remedy(fault.code))


def _remedy(code: str) -> str:
    if code == BARRED:
        return "ask the operator of the marketplace"
    if code == TEST_FAILED:
        return "mend what failed, then: kaalia self-test machine"
    if code == CAPACITY:
        return "put back what is gone; or have the machine tested as it is: kaalia self-test machine"
    return f"kaalia doctor explain {code}"


def _of_tests(known: Verification, news: News) -> Iterator[Lack]:
    remedy = "kaalia self-test machine; the marketplace also asks for one when nobody rents"
    proof = known.proof
    if proof is None:
        left_out = known.last is not None and known.last.result is RunResult.PASSED and known.last.missing
        words = f"the last self-test left out {', '.join(known.last.missing)}" if known.last and left_out else ""
        yield Lack("selftest", words or "no self-test of the whole machine has passed", remedy=remedy)
        return
    if known.proof_after is not None and proof.began_at <= known.proof_after:
        yield Lack("selftest_after_fault", "no self-test has passed since the fault", remedy=remedy)
    if news.capacity is not None and not set(news.capacity.gpu_uuids) <= set(proof.gpu_uuids):
        new = len(set(news.capacity.gpu_uuids) - set(proof.gpu_uuids))
        yield Lack("selftest_gpus", f"{new} GPUs were not there when the machine was tested", remedy=remedy)
    if known.unanswered >= DATA["retest"]["unanswered"]:
        words = f"{known.unanswered} tests that the marketplace asked for were not run"
        yield Lack("selftest_unanswered", words, remedy="let the next one run: it comes within a day when nobody rents")
    days = DATA["test"]["valid_days"]
    if news.now - proof.ended_at > timedelta(days=days) and not news.is_rented:
        yield Lack("selftest_old", f"the last self-test that passed is older than {days} days", remedy=remedy)
