"""The learning curve finds a law that it was given, says how sure it is, and says nothing where it knows nothing."""

from dataclasses import replace

import numpy as np
import pytest

from app.intent.learning_curve import LearningCurve, Point, fit_learning_curve

A, B, C = 0.92, 2.4, 0.5
SIZES = range(100, 1_700, 100)


def law(labels: float) -> float:
    return A - B * labels**-C


def measured(sizes=SIZES, *, noise: float = 0.0, seed: int = 0, count: int = 400) -> list[Point]:
    """Versions on the law, each measured on gold with so much noise, and an interval that says so."""
    rng = np.random.default_rng(seed)
    values = [law(labels) + noise * rng.standard_normal() for labels in sizes]
    half = 1.96 * max(noise, 0.005)
    return [
        Point(labels, value, count, value - half, value + half) for labels, value in zip(sizes, values, strict=True)
    ]


def fitted(points: list[Point]) -> LearningCurve:
    found = fit_learning_curve(points)
    assert found is not None
    return found


def test_the_law_of_points_without_noise_is_found():
    curve = fitted(measured())
    assert curve.parameters == pytest.approx([A, B, C], rel=0.06)
    assert curve.at(3_200).value == pytest.approx(law(3_200), abs=0.002)
    assert curve.gain(100).value == pytest.approx(law(1_700) - law(1_600), abs=5e-4)
    assert curve.needed(0.88).more == pytest.approx((B / (A - 0.88)) ** (1 / C) - 1_600, rel=0.1)


def test_the_truth_lies_in_the_intervals_about_as_often_as_they_say():
    inside = {"twice": 0, "gain": 0, "asymptote": 0, "needed": 0}
    runs = 60
    for seed in range(runs):
        curve = fitted(measured(noise=0.012, seed=seed))
        twice, gain, needed = curve.at(3_200), curve.gain(100), curve.needed(0.87)
        inside["twice"] += twice.low <= law(3_200) <= twice.high
        inside["gain"] += gain.low <= law(1_700) - law(1_600) <= gain.high
        inside["asymptote"] += curve.asymptote.low <= A <= curve.asymptote.high
        truth = (B / (A - 0.87)) ** (1 / C) - 1_600
        inside["needed"] += (needed.low or 0) <= truth <= (needed.high or np.inf)
    assert min(inside.values()) >= 0.9 * runs, inside


def test_more_gold_narrows_what_is_said():
    few, many = (fitted(measured(noise=0.0, count=count)).at(3_200) for count in (100, 10_000))
    assert many.high - many.low < few.high - few.low


def test_the_same_points_say_the_same():
    assert fitted(measured()).gain(100) == fitted(measured()).gain(100)


def test_a_target_above_the_curve_is_never_reached_and_one_below_is_already():
    curve = fitted(measured(count=100_000))
    assert (curve.needed(0.99).more, curve.needed(0.99).reached) == (None, False)
    assert (curve.needed(0.5).more, curve.needed(0.5).reached) == (0, True)
    below, above = curve.needed(0.87), curve.needed(0.89)
    assert below.low <= below.more <= below.high
    assert below.more < above.more


def test_fewer_than_four_numbers_of_labels_say_nothing():
    assert fit_learning_curve([]) is None
    assert fit_learning_curve(measured(range(100, 400, 100))) is None
    assert fit_learning_curve(measured([100, 200, 300, 300, 300])) is None
    assert fit_learning_curve([Point(0, 0.5, 100), Point(100, 0.5, 0), *measured(range(200, 500, 100))]) is None


def test_a_curve_that_falls_gains_nothing():
    curve = fitted([Point(labels, 0.9 - labels / 10_000, 500) for labels in SIZES])
    assert curve.parameters[1] == 0.0
    assert curve.gain(100).value == 0.0
    assert curve.needed(0.95).more is None
    assert 0.74 < curve.asymptote.value < 0.89


def test_a_perfect_model_has_nothing_to_gain_and_is_not_sure_of_it():
    curve = fitted([Point(labels, 1.0, 50, 1.0, 1.0) for labels in SIZES])
    assert curve.asymptote.value == pytest.approx(1.0)
    assert curve.at(5_000).low < 1.0
    assert curve.needed(0.99).reached


def test_no_estimate_leaves_zero_and_one():
    rng = np.random.default_rng(1)
    for _ in range(40):
        sizes = np.unique(rng.integers(1, 3_000, 8))
        points = [Point(int(size), float(rng.random()), int(rng.integers(1, 60))) for size in sizes]
        curve = fitted(points)
        for estimate in (curve.at(1), curve.at(10**6), curve.asymptote):
            assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
        assert curve.gain(100).low >= 0.0


def test_a_version_that_scatters_widens_the_intervals():
    calm = measured(count=10_000)
    shaken = [
        Point(point.labels, point.value + (0.04 if place % 2 else -0.04), point.count, point.low, point.high)
        for place, point in enumerate(calm)
    ]
    assert fitted(shaken).at(3_200).high - fitted(shaken).at(3_200).low > 2 * (
        fitted(calm).at(3_200).high - fitted(calm).at(3_200).low
    )


def test_first_versions_off_the_law_move_the_forecast_less_than_they_would_by_their_intervals_alone():
    off = [replace(point, value=point.value - (0.15 if point.labels <= 300 else 0.0)) for point in measured()]
    assert fitted(off).at(3_200).value == pytest.approx(law(3_200), abs=0.01)


def test_gold_without_end_leaves_a_forecast_unsure_because_no_curve_keeps_to_the_law():
    curve = fitted([replace(point, low=point.value, high=point.value) for point in measured(count=10**9)])
    now, twice = curve.at(1_600), curve.at(3_200)
    assert now.high - now.low < 0.001
    assert twice.high - twice.low > 0.5 * (twice.value - now.value)
