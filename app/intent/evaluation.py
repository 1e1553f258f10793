"""Measure a version on gold: how good, how sure of it, where it errs, and whether its confidence means what it says.

In this module `truth` and `predicted` have shape (n,) and hold label ids; `weights` has shape (resamples, n) and says
how often each text occurs in each resample.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.hierarchy import at_depth, depth_of

RESAMPLES: Final = 1_000
INTERVAL: Final = (2.5, 97.5)  # percentiles
CALIBRATION_BINS: Final = 10
JUDGED_FROM: Final = 10  # gold texts from which on a label is judged by itself
CONFUSIONS_KEPT: Final = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its 95 % bootstrap interval; all None where there was nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """One label on gold. `precision` is 0 where the label was never answered; `judged`: there is enough gold of it."""

    label_id: int
    support: int
    precision: float
    recall: float
    f1: float
    judged: bool


@dataclass(frozen=True, slots=True)
class DepthFigures:
    """Answers judged by their first `depth` levels alone, over the `labels` nodes there that occur in the truth."""

    depth: int
    labels: int
    macro_f1: Figure
    accuracy: Figure


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that is said of a version by its answers to `count` labelled texts.

    `labels` holds the labels that occur in the truth, by id. `confusions` holds (true label id, answered label id,
    times), the most frequent first. `reliability` holds, for each bin of confidence, its lower and upper edge, the
    texts in it, their mean confidence and their accuracy. `depths` judges the same answers at every depth of the tree,
    from the top down; the last one judges whole labels. Empty where no paths were given.
    """

    count: int
    macro_f1: Figure
    accuracy: Figure
    calibration_error: Figure
    share_above_threshold: Figure
    accuracy_above_threshold: Figure
    threshold: float
    labels: tuple[LabelFigures, ...]
    confusions: tuple[tuple[int, int, int], ...]
    reliability: tuple[tuple[float, float, int, float | None, float | None], ...]
    depths: tuple[DepthFigures, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, and None rather than NaN."""
        return asdict(self)


def evaluate(
    truth: IntArray,
    probabilities: FloatArray,
    label_ids: Sequence[int],
    *,
    threshold: float,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Measure answers against the truth. `probabilities`: shape (n, n_labels), its columns are `label_ids`.

    A true label that is not among `label_ids` is an error like any other. Intervals are percentile bootstrap intervals
    over texts (Efron & Tibshirani 1993); macro-F1 is taken over the labels that occur in a resample.
    """
    if len(truth) == 0:
        return evaluate_answers(truth, np.zeros(0, dtype=np.int64), np.zeros(0), threshold=threshold, rng=rng)
    predicted = np.asarray(label_ids, dtype=np.int64)[probabilities.argmax(axis=1)]
    confidence = probabilities.max(axis=1)
    return evaluate_answers(truth, predicted, confidence, threshold=threshold, rng=rng, resamples=resamples)


def evaluate_answers(
    truth: IntArray,
    predicted: IntArray,
    confidence: FloatArray,
    *,
    threshold: float,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    paths: Mapping[int, str] | None = None,
) -> Evaluation:
    """`evaluate`, of answers of whatever gave them. `confidence`: shape (n,), in [0, 1]; no answer is label -1 at 0.

    `paths`: of labels, by id; a label without one is a node of its own at every depth.
    """
    truth = np.asarray(truth, dtype=np.int64)
    if len(truth) == 0:
        nothing = Figure(None)
        return Evaluation(0, nothing, nothing, nothing, nothing, nothing, float(threshold), (), (), ())
    right, above = predicted == truth, confidence >= threshold
    once, weights = np.ones((1, len(truth))), resample_weights(len(truth), resamples, rng)
    answers = encode(truth, predicted)
    f1 = _figure(macro_f1_resampled(answers, once), macro_f1_resampled(answers, weights))
    accuracy = _figure(_share(right, once), _share(right, weights))
    return Evaluation(
        count=len(truth),
        macro_f1=f1,
        accuracy=accuracy,
        calibration_error=_figure(
            _calibration_error(confidence, right, once), _calibration_error(confidence, right, weights)
        ),
        share_above_threshold=_figure(_share(above, once), _share(above, weights)),
        accuracy_above_threshold=_figure(_share(right, once * above), _share(right, weights * above)),
        threshold=float(threshold),
        labels=_per_label(truth, predicted),
        confusions=_confusions(truth, predicted),
        reliability=reliability(confidence, right),
        depths=() if paths is None else _depths(truth, predicted, paths, weights, (f1, accuracy)),
    )


def macro_f1(truth: IntArray, predicted: IntArray) -> float:
    """Unweighted mean of F1 over the labels that occur in `truth`; 0 without texts."""
    return float(macro_f1_resampled(encode(truth, predicted), np.ones((1, len(truth))))[0])


def resample_weights(count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """How often each text occurs in each resample of as many texts: shape (resamples, count), rows sum to `count`."""
    weights = np.empty((resamples, count))
    for row in weights:
        row[:] = np.bincount(rng.integers(count, size=count), minlength=count)
    return weights


@dataclass(frozen=True, slots=True)
class Answers:
    """Truth and prediction of n texts as numbers below `n_labels`; `n_labels` itself is any label not in the truth."""

    truth: IntArray
    predicted: IntArray
    n_labels: int


def encode(truth: IntArray, predicted: IntArray) -> Answers:
    """Number the labels that occur in `truth`, for counting."""
    present, coded = np.unique(truth, return_inverse=True)
    place = np.searchsorted(present, predicted)
    known = np.append(present, -1)[place] == predicted
    return Answers(coded.astype(np.int64), np.where(known, place, len(present)).astype(np.int64), len(present))


def macro_f1_resampled(answers: Answers, weights: FloatArray) -> FloatArray:
    """Macro-F1 of every resample over the labels it holds, shape (resamples,). F1 is 2·hits / (true + answered)."""
    is_truth = np.eye(answers.n_labels)[answers.truth]
    is_answer = np.eye(answers.n_labels + 1)[answers.predicted][:, : answers.n_labels]
    true, hits = weights @ is_truth, weights @ (is_truth * is_answer)
    f1 = 2.0 * hits / np.maximum(true + weights @ is_answer, 1.0)
    # A label that a resample lacks has no hits and adds nothing to the sum.
    scores: FloatArray = f1.sum(axis=1) / np.maximum((true > 0.0).sum(axis=1), 1)
    return scores


def _share(hits: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """The share of hits in every resample, NaN in one that holds no text."""
    totals = weights.sum(axis=1)
    shares: FloatArray = np.full(len(weights), np.nan)
    np.divide(weights @ hits.astype(np.float64), totals, out=shares, where=totals > 0.0)
    return shares


def _figure(point: FloatArray, resampled: FloatArray) -> Figure:
    """A figure from its value (1,) and its values in the resamples that could measure it."""
    measured = resampled[~np.isnan(resampled)]
    if np.isnan(point[0]) or len(measured) == 0:
        return Figure(None if np.isnan(point[0]) else float(point[0]))
    low, high = np.percentile(measured, INTERVAL)
    return Figure(float(point[0]), float(low), float(high))


def calibration_error(confidence: FloatArray, right: NDArray[np.bool_]) -> float | None:
    """Expected calibration error (Guo et al. 2017) over ten bins of equal width; None without texts."""
    return float(_calibration_error(confidence, right, np.ones((1, len(right))))[0]) if len(right) else None


def _calibration_error(confidence: FloatArray, right: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """Expected calibration error (Guo et al. 2017) of every resample, over ten bins of equal width."""
    gaps = np.abs((weights * (right - confidence)) @ np.eye(CALIBRATION_BINS)[_bins(confidence)])
    errors: FloatArray = gaps.sum(axis=1) / weights.sum(axis=1)
    return errors


def _bins(confidence: FloatArray) -> IntArray:
    return np.clip((confidence * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)


def _depths(
    truth: IntArray, predicted: IntArray, paths: Mapping[int, str], weights: FloatArray, whole: tuple[Figure, Figure]
) -> tuple[DepthFigures, ...]:
    """`whole`: macro-F1 and accuracy of whole labels, which are those at the last depth."""
    once = np.ones((1, len(truth)))
    figures = []
    deepest = depth_of(np.concatenate([truth, predicted]), paths)
    for depth in range(1, deepest):
        true, given = at_depth(truth, paths, depth), at_depth(predicted, paths, depth)
        answers, right = encode(true, given), true == given
        f1 = _figure(macro_f1_resampled(answers, once), macro_f1_resampled(answers, weights))
        figures.append(DepthFigures(depth, answers.n_labels, f1, _figure(_share(right, once), _share(right, weights))))
    return (*figures, DepthFigures(max(deepest, 1), len(np.unique(truth)), *whole))


def _per_label(truth: IntArray, predicted: IntArray) -> tuple[LabelFigures, ...]:
    figures = []
    for label in np.unique(truth):
        true, answered = truth == label, predicted == label
        hits, support, given = int((true & answered).sum()), int(true.sum()), int(answered.sum())
        figures.append(
            LabelFigures(
                label_id=int(label),
                support=support,
                precision=hits / given if given else 0.0,
                recall=hits / support,
                f1=2 * hits / (support + given),
                judged=support >= JUDGED_FROM,
            )
        )
    return tuple(figures)


def _confusions(truth: IntArray, predicted: IntArray) -> tuple[tuple[int, int, int], ...]:
    pairs = Counter((int(true), int(given)) for true, given in zip(truth, predicted, strict=True) if true != given)
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple((true, given, times) for (true, given), times in ordered[:CONFUSIONS_KEPT])


def reliability(
    confidence: FloatArray, right: NDArray[np.bool_]
) -> tuple[tuple[float, float, int, float | None, float | None], ...]:
    """For each bin of confidence its lower and upper edge, the texts in it, their mean confidence and accuracy.

    `confidence`, `right`: shape (n,).
    """
    bins = _bins(confidence)
    rows: list[tuple[float, float, int, float | None, float | None]] = []
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        low, high, count = number / CALIBRATION_BINS, (number + 1) / CALIBRATION_BINS, int(inside.sum())
        figures = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (None, None)
        rows.append((low, high, count, *figures))
    return tuple(rows)
