from kaalia.marketplace.limits import RateLimit
from kaalia.wire.error import ApiError


def refused(limit: RateLimit, identity: str, now_s: float) -> bool:
    try:
        limit.take(identity, now_s)
    except ApiError as error:
        return error.status == 429 and int(error.extra["retry_after_s"]) >= 1
    return False


def test_a_bucket_empties_and_fills_again() -> None:
    limit = RateLimit(per_minute=60)

    first = [refused(limit, "a", 0.0) for _ in range(61)]

    assert first == [False] * 60 + [True]
    assert refused(limit, "a", 0.5) is True
    assert refused(limit, "a", 1.01) is False
    assert refused(limit, "a", 1.02) is True


def test_identities_do_not_share() -> None:
    limit = RateLimit(per_minute=1)

    assert [refused(limit, name, 0.0) for name in ("a", "b", "a")] == [False, False, True]


def test_a_bucket_never_holds_more_than_a_minutes_worth() -> None:
    limit = RateLimit(per_minute=2)
    limit.take("a", 0.0)

    assert [refused(limit, "a", 3600.0) for _ in range(3)] == [False, False, True]


def test_none_switches_the_limit_off() -> None:
    limit = RateLimit(per_minute=None)

    assert not any(refused(limit, "a", 0.0) for _ in range(1000))


def test_full_buckets_are_forgotten_and_empty_ones_are_not() -> None:
    limit = RateLimit(per_minute=1, buckets_max=3)
    for name in ("a", "b"):
        limit.take(name, 0.0)
    limit.take("c", 30.0)

    limit.take("d", 61.0)

    assert refused(limit, "c", 61.0) is True
    assert sorted(limit._buckets) == ["c", "d"]
