"""Figures on gold agree with their definitions, know how unsure they are, and survive little data."""

import json
import time
import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from app.intent.evaluation import Figure, evaluate, evaluate_answers, macro_f1, resample_weights


def rng():
    return np.random.default_rng(0)


def answers(predicted, label_ids, confidence=0.8):
    """Probabilities that give each text its predicted label with this confidence."""
    probabilities = np.full((len(predicted), len(label_ids)), (1 - confidence) / max(1, len(label_ids) - 1))
    probabilities[np.arange(len(predicted)), [label_ids.index(label) for label in predicted]] = confidence
    return probabilities


def noisy(n, n_labels, seed=0):
    """Random truth, and probabilities that are right in about three of four."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, n_labels, n) * 10
    probabilities = draw.dirichlet(np.full(n_labels, 0.1), n)
    right = draw.random(n) < 0.7
    probabilities[np.flatnonzero(right), truth[right] // 10] += 1.0
    return truth, probabilities / probabilities.sum(axis=1, keepdims=True), [10 * label for label in range(n_labels)]


def test_figures_agree_with_scikit_learn():
    truth, probabilities, label_ids = noisy(500, 12)
    predicted = np.array(label_ids)[probabilities.argmax(axis=1)]
    evaluation = evaluate(truth, probabilities, label_ids, threshold=0.5, rng=rng())

    assert evaluation.count == 500
    assert evaluation.accuracy.value == pytest.approx((truth == predicted).mean())
    assert evaluation.macro_f1.value == pytest.approx(f1_score(truth, predicted, average="macro"))
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=label_ids)
    assert [label.label_id for label in evaluation.labels] == label_ids
    assert [label.precision for label in evaluation.labels] == pytest.approx(precision)
    assert [label.recall for label in evaluation.labels] == pytest.approx(recall)
    assert [label.f1 for label in evaluation.labels] == pytest.approx(f1)
    assert [label.support for label in evaluation.labels] == support.tolist()


def test_macro_f1_counts_only_labels_of_the_truth():
    truth, predicted = np.array([1, 1, 2, 2]), np.array([1, 3, 2, 2])
    assert macro_f1(truth, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(truth, truth) == 1.0
    assert macro_f1(np.array([], dtype=np.int64), np.array([], dtype=np.int64)) == 0.0


def test_a_label_that_the_model_does_not_know_is_an_error():
    evaluation = evaluate(np.array([1, 1, 99, 99]), answers([1, 1, 1, 2], [1, 2]), [1, 2], threshold=0.5, rng=rng())
    assert evaluation.accuracy.value == 0.5
    assert evaluation.macro_f1.value == pytest.approx((0.8 + 0.0) / 2)
    assert [(label.label_id, label.support, label.recall, label.precision) for label in evaluation.labels] == [
        (1, 2, 1.0, pytest.approx(2 / 3)),
        (99, 2, 0.0, 0.0),
    ]
    assert evaluation.confusions == ((99, 1, 1), (99, 2, 1))


def test_a_label_is_judged_from_ten_gold_texts_on():
    truth = np.array([1] * 10 + [2] * 9)
    evaluation = evaluate(truth, answers(truth.tolist(), [1, 2]), [1, 2], threshold=0.5, rng=rng())
    assert [label.judged for label in evaluation.labels] == [True, False]


def test_the_most_frequent_confusions_come_first_and_few_are_kept():
    truth = np.array([1] * 5 + [2] * 4 + [3] * 3 + list(range(10, 30)))
    predicted = [2] * 5 + [1] * 4 + [3] * 3 + [1] * 20
    label_ids = [1, 2, 3]
    evaluation = evaluate(truth, answers(predicted, label_ids), label_ids, threshold=0.5, rng=rng())
    assert evaluation.confusions[:3] == ((1, 2, 5), (2, 1, 4), (10, 1, 1))
    assert len(evaluation.confusions) == 10


def test_the_share_above_the_threshold_and_its_accuracy_are_measured_there_alone():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.55, 0.45]])
    evaluation = evaluate(np.array([1, 2, 1, 2]), probabilities, [1, 2], threshold=0.6, rng=rng())
    assert evaluation.share_above_threshold.value == 0.75
    assert evaluation.accuracy_above_threshold.value == pytest.approx(2 / 3)
    assert evaluation.threshold == 0.6

    nothing_above = evaluate(np.array([1, 2, 1, 2]), probabilities, [1, 2], threshold=0.95, rng=rng())
    assert nothing_above.share_above_threshold.value == 0.0
    assert nothing_above.accuracy_above_threshold == Figure(None)


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy():
    # 100 texts at 0.8 of which 60 are right, 100 at 0.95 of which 95 are: (100 * 0.2 + 100 * 0) / 200.
    truth = np.array([1] * 60 + [2] * 40 + [1] * 95 + [2] * 5)
    probabilities = np.array([[0.8, 0.2]] * 100 + [[0.95, 0.05]] * 100)
    evaluation = evaluate(truth, probabilities, [1, 2], threshold=0.5, rng=rng())
    assert evaluation.calibration_error.value == pytest.approx(0.1)
    assert len(evaluation.reliability) == 10
    low, high, count, mean, accuracy = evaluation.reliability[8]
    assert (low, high, count, mean, accuracy) == (0.8, 0.9, 100, pytest.approx(0.8), pytest.approx(0.6))
    assert evaluation.reliability[9] == (0.9, 1.0, 100, pytest.approx(0.95), pytest.approx(0.95))
    assert evaluation.reliability[0] == (0.0, 0.1, 0, None, None)


def test_intervals_hold_the_value_and_narrow_with_more_gold():
    def interval(n):
        figure = evaluate(*noisy(n, 5), threshold=0.5, rng=rng()).accuracy
        assert figure.low < figure.value < figure.high
        return figure.high - figure.low

    assert interval(4_000) < 0.45 * interval(400)


def test_the_interval_of_accuracy_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        right = draw.random(100) < 0.8
        predicted = np.where(right, 1, 2).tolist()
        figure = evaluate(
            np.ones(100, dtype=np.int64), answers(predicted, [1, 2]), [1, 2], threshold=0.5, rng=draw, resamples=200
        ).accuracy
        covered += figure.low <= 0.8 <= figure.high
    assert 175 <= covered <= 199  # 190 expected


def test_intervals_depend_on_the_given_randomness_alone():
    given = noisy(100, 5)
    first = evaluate(*given, threshold=0.5, rng=np.random.default_rng(7))
    assert first == evaluate(*given, threshold=0.5, rng=np.random.default_rng(7))
    assert first != evaluate(*given, threshold=0.5, rng=np.random.default_rng(8))


def test_every_resample_holds_as_many_texts_as_there_are():
    weights = resample_weights(30, 200, rng())
    assert weights.shape == (200, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(30), abs=0.35)


@pytest.mark.parametrize(
    ("truth", "predicted"), [([], []), ([1], [1]), ([1], [2]), ([9], [1]), ([1, 9], [1, 1]), ([1, 1, 1], [1, 1, 1])]
)
@pytest.mark.parametrize("threshold", [0.0, 0.8, 1.0])
def test_little_gold_gives_figures_without_warnings_or_nan(truth, predicted, threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation = evaluate(
            np.array(truth, dtype=np.int64), answers(predicted, [1, 2]), [1, 2], threshold=threshold, rng=rng()
        )
        written = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    assert written["count"] == len(truth)
    assert set(written["macro_f1"]) == {"value", "low", "high"}


def test_without_gold_every_figure_is_none():
    evaluation = evaluate(np.array([], dtype=np.int64), np.zeros((0, 2)), [1, 2], threshold=0.5, rng=rng())
    assert evaluation.macro_f1 == evaluation.accuracy == evaluation.calibration_error == Figure(None, None, None)
    assert evaluation.labels == evaluation.confusions == evaluation.reliability == ()


def test_a_model_of_one_label_is_measured():
    evaluation = evaluate(np.array([1, 1]), np.ones((2, 1)), [1], threshold=0.5, rng=rng())
    assert evaluation.accuracy == evaluation.macro_f1 == Figure(1.0, 1.0, 1.0)
    assert evaluation.calibration_error.value == 0.0


def test_two_thousand_texts_and_151_labels_are_measured_in_time():
    given = noisy(2_000, 151)
    start = time.perf_counter()
    evaluate(*given, threshold=0.5, rng=rng())
    assert time.perf_counter() - start < 3.0  # 0.2 s when alone on the machine


def test_answers_are_judged_at_every_depth_of_the_tree():
    paths = {1: "a > x", 2: "a > y", 3: "b > z", 4: "c"}
    truth, predicted = np.array([1, 1, 2, 3, 4, 4]), np.array([2, 1, 2, 1, 4, 3])
    evaluation = evaluate_answers(truth, predicted, np.full(6, 0.8), threshold=0.5, rng=rng(), paths=paths)

    upper, whole = evaluation.depths
    top = {1: 1, 2: 1, 3: 3, 4: 4}
    lifted = np.array([top[i] for i in truth]), np.array([top[i] for i in predicted])
    assert (upper.depth, upper.labels) == (1, 3)
    assert upper.accuracy.value == pytest.approx(4 / 6)
    assert upper.macro_f1.value == pytest.approx(f1_score(*lifted, average="macro"))
    assert upper.macro_f1.low <= upper.macro_f1.value <= upper.macro_f1.high
    assert (whole.depth, whole.labels) == (2, 4)
    assert (whole.accuracy, whole.macro_f1) == (evaluation.accuracy, evaluation.macro_f1)
    json.dumps(evaluation.as_json(), allow_nan=False)


def test_a_flat_taxonomy_has_one_depth_and_no_paths_have_none():
    truth, predicted, confidence = np.array([1, 2]), np.array([1, 1]), np.full(2, 0.8)
    flat = evaluate_answers(truth, predicted, confidence, threshold=0.5, rng=rng(), paths={1: "a", 2: "b"})
    [only] = flat.depths
    assert (only.depth, only.macro_f1) == (1, flat.macro_f1)
    assert evaluate_answers(truth, predicted, confidence, threshold=0.5, rng=rng()).depths == ()
    nothing = np.array([], dtype=np.int64)
    assert evaluate_answers(nothing, nothing, np.zeros(0), threshold=0.5, rng=rng(), paths={}).depths == ()
