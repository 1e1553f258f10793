"""The threshold is the lowest from which on answers are good enough, by the policy that the domain has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intent.calibration import POLICIES, Held, cascaded, fit_threshold, fit_thresholds
from app.intent.cascade import Decision, Verdict
from app.intent.evaluation import macro_f1


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


# Policies.


def held(confidence, correct, *, labels=4, seed=0):
    """Answers that are right where `correct` says so, and the truth they are judged by."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, len(confidence))
    return truth, Held(np.where(correct, truth, (truth + 1) % labels), np.asarray(confidence, dtype=np.float64))


def calibrated(n, *, low=0.0, seed=0):
    rng = np.random.default_rng(seed)
    confidence = low + (1.0 - low) * rng.random(n)
    return held(confidence, rng.random(n) < confidence, seed=seed)


def test_one_tier_alone_has_nothing_to_sweep_for_and_keeps_the_accuracy_above_its_threshold():
    truth, first = calibrated(20_000)
    chosen = fit_thresholds(truth, first)

    assert not chosen.policies["sweep"].reached
    assert chosen.threshold == fit_threshold(first.confidence, first.predicted == truth)
    assert len({candidate.macro_f1 for candidate in chosen.candidates}) == 1


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.85])
def test_the_sweep_asks_the_next_tier_up_to_where_it_is_no_better(accuracy):
    """Calibrated answers are worth their confidence: below the next tier's accuracy it is better to ask it."""
    truth, first = calibrated(20_000)
    rng = np.random.default_rng(1)
    right = rng.random(len(truth)) < accuracy
    # As sure as can be, so that it is the next tier that answers whenever it is asked.
    later = Held(np.where(right, truth, (truth + 1) % 4), np.ones(len(truth)))

    chosen = fit_thresholds(truth, first, later)

    assert chosen.policies["sweep"].reached
    assert chosen.threshold == pytest.approx(accuracy, abs=0.05)


def test_the_sweep_finds_the_best_macro_f1_of_its_grid_and_of_equal_ones_the_lowest():
    truth, first = calibrated(400, seed=3)
    _, later = calibrated(400, low=0.3, seed=4)
    later = Held(np.where(later.predicted == 0, truth, later.predicted), later.confidence)
    chosen = fit_thresholds(truth, first, later)

    grid = [hundredths / 100 for hundredths in range(50, 91)]
    scores = [macro_f1(truth, cascaded(first, later, threshold)) for threshold in grid]
    assert chosen.threshold == grid[int(np.argmax(scores))]


def test_of_equally_good_thresholds_the_sweep_takes_the_lowest_which_asks_the_least():
    truth, first = held([0.55] * 8 + [0.95] * 92, [False] * 8 + [True] * 92)
    later = Held(truth, np.full(100, 0.99))
    assert fit_threshold(first.confidence, first.predicted == truth) == 0.50
    assert fit_thresholds(truth, first, later).threshold == 0.56


def test_a_gain_that_may_be_luck_does_not_move_the_threshold():
    truth, first = held([0.55] * 500 + [0.95] * 4500, [False] * 500 + [True] * 4500)
    # It knows better at three of five thousand texts.
    lucky = Held(np.where(np.arange(5000) < 3, truth, first.predicted), np.full(5000, 0.99))
    chosen = fit_thresholds(truth, first, lucky)
    assert chosen.threshold == fit_threshold(first.confidence, first.predicted == truth) == 0.50
    assert chosen.policies["sweep"].reached


def test_the_sweep_asks_no_later_than_its_grid_ends_however_good_the_next_tier_is():
    truth, first = held(np.linspace(0.5, 0.99, 200), [True, False] * 100)
    assert fit_thresholds(truth, first, Held(truth, np.ones(200))).threshold == 0.90


def test_the_sweep_answers_as_the_cascade_does():
    draw = np.random.default_rng(0)
    first = Held(draw.integers(0, 3, 200), draw.random(200).round(1))
    later = Held(draw.integers(0, 3, 200), draw.random(200).round(1))
    for threshold in (0.0, 0.5, 0.8, 1.0):
        decided = []
        for i in range(200):
            verdicts = [Verdict("discriminative", int(first.predicted[i]), float(first.confidence[i]))]
            if not verdicts[0].stands(threshold):
                verdicts.append(Verdict("generative", int(later.predicted[i]), float(later.confidence[i])))
            decided.append(Decision(tuple(verdicts), threshold).label_id)
        assert cascaded(first, later, threshold).tolist() == decided


def test_risk_is_the_lowest_threshold_above_which_errors_are_surely_few():
    # 300 answers at 0.95 with one error, 100 at 0.70 of which every tenth is wrong.
    truth, first = held([0.95] * 300 + [0.70] * 100, [False] + [True] * 299 + ([False] + [True] * 9) * 10)
    risk = fit_thresholds(truth, first, policy="risk")

    assert risk.threshold == 0.71
    [at] = [candidate for candidate in risk.candidates if candidate.threshold == 0.71]
    assert (at.above, at.wrong) == (300, 1)
    assert at.error_bound == pytest.approx(0.01572, abs=1e-4)


@pytest.mark.parametrize(("count", "threshold"), [(148, 1.0), (149, 0.5)])
def test_risk_needs_149_texts_without_an_error_to_promise_two_percent(count, threshold):
    assert fit_thresholds(*held([0.99] * count, [True] * count), policy="risk").threshold == threshold


def test_risk_lets_nothing_stand_where_it_cannot_keep_its_promise():
    chosen = fit_thresholds(*calibrated(500), policy="risk")
    if chosen.threshold < 1.0:
        pytest.fail("500 texts, half of them wrong, promise nothing")
    assert not chosen.policies["risk"].reached
    nobody = fit_thresholds(*held([], []), policy="risk")
    assert nobody.threshold == 1.0


def test_risk_keeps_its_promise_on_new_texts():
    """Although the lowest of 50 thresholds is chosen: of 1,500 draws 98.5 % kept it."""
    kept = 0
    for seed in range(200):
        chosen = fit_thresholds(*steep(600, seed=seed), policy="risk").threshold
        # The error of all texts above it, of which these are a sample.
        kept += chosen == 1.0 or true_error(chosen) <= 0.02
    assert kept >= 0.95 * 200


def steep(n, *, seed):
    """Most answers are sure, as a good model's are."""
    rng = np.random.default_rng(seed)
    confidence = 1.0 - 0.5 * rng.random(n) ** 4
    return held(confidence, rng.random(n) < confidence, seed=seed)


def true_error(threshold):
    # Above τ lie u in [0, v] with v = (2(1 - τ))^(1/4); E[1 - confidence] there is 0.5 v⁴ / 5.
    return 0.5 * (2.0 * (1.0 - threshold)) / 5.0


def test_both_policies_are_shown_with_the_reliability_that_they_chose_from():
    truth, first = calibrated(2_000)
    shown = fit_thresholds(truth, first, policy="risk").as_json()

    assert set(shown["policies"]) == set(POLICIES) == {"sweep", "risk"}
    assert shown["threshold"] == shown["policies"]["risk"]["threshold"]
    assert shown["count"] == 2_000
    assert sum(texts for _, _, texts, _, _ in shown["reliability"]) == 2_000
    assert all(abs(confidence - accuracy) < 0.15 for _, _, _, confidence, accuracy in shown["reliability"])
    assert shown["calibration_error"] < 0.05
    assert {0.5, 0.9, shown["policies"]["sweep"]["threshold"]} <= {c["threshold"] for c in shown["candidates"]}


def test_an_unknown_policy_is_refused():
    with pytest.raises(KeyError, match="no policy"):
        fit_thresholds(*calibrated(10), policy="luck")
