"""A burn of a day keeps no more than a bound of samples, and of each GPU from its beginning to its end."""

from itertools import pairwise

from kaalia.model.selftest import Sample
from kaalia.selftest.samples import Samples


def test_few_are_all_kept() -> None:
    kept = Samples()
    given = [Sample(at / 2, f"GPU-{gpu}", throughput=1.0) for at in range(100) for gpu in range(2)]

    for one in given:
        kept.append(one)

    assert list(kept) == given


def test_a_long_burn_is_thinned_out_evenly() -> None:
    kept = Samples(most=1000)
    for at in range(86_400):
        for gpu in range(4):
            kept.append(Sample(float(at), f"GPU-{gpu}", throughput=1.0))
            if at % 2 == 0:
                kept.append(Sample(float(at), f"GPU-{gpu}", temperature_c=60.0))

    assert 250 <= len(kept) <= 1000
    for gpu in range(4):
        for is_reading in (False, True):
            times = [one.at_s for one in kept if (one.gpu_uuid, one.throughput is None) == (f"GPU-{gpu}", is_reading)]
            gaps = {after - before for before, after in pairwise(times)}
            assert len(gaps) == 1, "evenly"
            assert times[0] == 0
            assert times[-1] > 85_000


def test_a_second_step_begins_anew() -> None:
    kept = Samples(most=10)
    for at in range(40):
        kept.append(Sample(float(at), "GPU-1", throughput=1.0))

    kept.append(Sample(0.5, "GPU-1", throughput=2.0))

    assert [one.at_s for one in kept if one.throughput == 2.0] == [0.5]
