from datetime import timedelta

import pytest

from kaalia.marketplace.nonces import NONCES_PER_MACHINE, Nonces
from kaalia.wire.error import ApiError
from tests.support.machines import machine_report


def test_nonces_are_bounded_and_forgotten_after_the_skew_window() -> None:
    nonces = Nonces()
    start = machine_report().collected_at
    for number in range(NONCES_PER_MACHINE):
        nonces.take(1, str(number), start, start)
    with pytest.raises(ApiError) as full:
        nonces.take(1, "one more", start, start)
    nonces.take(2, "0", start, start)
    with pytest.raises(ApiError) as replayed:
        nonces.take(1, "0", start, start + timedelta(seconds=300))
    nonces.take(1, "new", start, start + timedelta(seconds=301))

    assert full.value.code == "too_many_requests"
    assert replayed.value.code == "nonce_replayed"
