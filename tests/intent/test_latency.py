"""Durations in buckets: quantiles near those of the durations themselves."""

import random
from collections import Counter

import pytest

from app.intent.latency import LAST, PER_DOUBLING, bucket_of, quantile_ms, upper_bound_ms


@pytest.mark.parametrize(("spread", "within"), [(0.0, 0.19), (0.1, 0.1), (0.7, 0.05), (1.5, 0.05)])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_quantile_is_near_the_exact_one(spread: float, within: float, quantile: float) -> None:
    rng = random.Random(7)
    durations = sorted(rng.lognormvariate(1.5, spread) for _ in range(20_000))
    exact = durations[int(quantile * len(durations)) - 1]
    found = quantile_ms(Counter(map(bucket_of, durations)), quantile)
    assert found == pytest.approx(exact, rel=within)


def test_a_duration_lies_below_the_bound_of_its_bucket_and_above_the_one_before() -> None:
    rng = random.Random(1)
    for duration in [0.0, 0.05, 0.1, 0.2, *(rng.lognormvariate(2, 3) for _ in range(2_000))]:
        upper = upper_bound_ms(bucket_of(duration))
        assert duration <= upper * (1 + 1e-9)
        assert duration <= 0.05 or upper / 2 ** (1 / PER_DOUBLING) < duration * (1 + 1e-9)


def test_buckets_sort_as_their_bounds_do_and_end_somewhere() -> None:
    durations = [10.0**power for power in range(-3, 12)]
    assert [bucket_of(duration) for duration in durations] == sorted(map(bucket_of, durations))
    assert bucket_of(1e12) == str(LAST)
    assert quantile_ms({str(LAST): 3}, 0.5) is not None


def test_nothing_has_no_quantile() -> None:
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({"10": 0}, 0.5) is None
