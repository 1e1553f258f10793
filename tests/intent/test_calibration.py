"""The threshold is the lowest from which on answers are good enough."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intent.calibration import fit_threshold


def fit(confidence, correct, **options):
    return fit_threshold(np.array(confidence, dtype=np.float64), np.array(correct, dtype=bool), **options)


def test_the_threshold_is_the_lowest_that_reaches_the_target():
    # Calibrated answers, uniform in confidence: above τ they are right in (τ + 1) / 2 of the cases.
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    correct = rng.random(200_000) < confidence
    assert fit(confidence, correct) == pytest.approx(0.80, abs=0.011)
    assert fit(confidence, correct, target=0.85) == pytest.approx(0.70, abs=0.011)
    assert fit(confidence, correct, target=0.99) == 0.90


def test_the_threshold_is_low_when_answers_of_any_confidence_are_good_enough():
    assert fit([0.3] * 18 + [0.6, 0.7], [True] * 18 + [False, True]) == 0.50


def test_the_threshold_is_high_when_no_answers_are_good_enough_or_there_are_none():
    assert fit([0.6, 0.99], [False, False]) == 0.90
    assert fit([0.3, 0.4], [False, True]) == 0.90
    assert fit([], []) == 0.90


@pytest.mark.parametrize(("confidence", "correct", "threshold"), [(0.55, True, 0.50), (0.55, False, 0.90)])
def test_one_answer_is_enough_to_fit(confidence, correct, threshold):
    assert fit([confidence], [correct]) == threshold


def test_an_answer_right_at_the_threshold_is_above_it():
    assert fit([0.5, 0.6, 0.7], [False, False, True]) == 0.61
    assert fit([0.5, 0.6, 0.70], [False, False, True], target=1.0) == 0.61
    assert fit([0.6, 0.7, 0.7], [False, True, False], target=0.5) == 0.61


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=40), st.floats(0.1, 1.0))
def test_the_threshold_lies_on_its_grid_and_keeps_its_promise(answers, target):
    confidence = np.array([pair[0] for pair in answers])
    correct = np.array([pair[1] for pair in answers], dtype=bool)
    threshold = fit_threshold(confidence, correct, target=target)
    assert 0.5 <= threshold <= 0.9
    assert round(threshold, 2) == threshold
    above = correct[confidence >= threshold]
    if threshold < 0.9 and not (len(correct) and correct.mean() >= target):
        assert above.mean() >= target
