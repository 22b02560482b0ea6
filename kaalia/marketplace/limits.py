"""How often one identity may ask: token buckets in memory, one per API key, or per address where there is no key."""

from dataclasses import dataclass

from kaalia.wire.error import ApiError


@dataclass(slots=True)
class _Bucket:
    tokens: float
    as_of_s: float


class RateLimit:
    """At most `per_minute` requests a minute and identity, and as many at once. None: no limit.

    `buckets_max`: beyond this, buckets that are full again (they know nothing) are forgotten.
    """

    def __init__(self, per_minute: int | None, buckets_max: int = 10_000) -> None:
        self._per_minute = per_minute
        self._buckets_max = buckets_max
        self._buckets: dict[str, _Bucket] = {}

    def take(self, identity: str, now_s: float) -> None:
        """Count one request. Raises ApiError 429 `too_many_requests` whose `retry_after_s` is when to come back."""
        if self._per_minute is None:
            return
        rate_per_s = self._per_minute / 60
        bucket = self._buckets.get(identity)
        if bucket is None:
            self._forget_full(now_s, rate_per_s)
            bucket = self._buckets[identity] = _Bucket(float(self._per_minute), now_s)
        bucket.tokens = min(self._per_minute, bucket.tokens + (now_s - bucket.as_of_s) * rate_per_s)
        bucket.as_of_s = now_s
        if bucket.tokens < 1:
            wait_s = max(1, round((1 - bucket.tokens) / rate_per_s + 0.5))
            raise ApiError(
                429,
                "too_many_requests",
                f"cannot answer: API requests too frequent, at most {self._per_minute} a minute",
                remedy=f"Wait {wait_s} s",
                retry_after_s=wait_s,
            )
        bucket.tokens -= 1

    def _forget_full(self, now_s: float, rate_per_s: float) -> None:
        if len(self._buckets) < self._buckets_max or self._per_minute is None:
            return
        full = self._per_minute
        self._buckets = {
            identity: bucket
            for identity, bucket in self._buckets.items()
            if bucket.tokens + (now_s - bucket.as_of_s) * rate_per_s < full
        }
