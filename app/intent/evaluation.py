"""Measure a version on gold: how good, how sure of it, where it errs, and whether its confidence means what it says.

Arrays in this module: `truth` and `predicted` have shape (n,) and hold label ids; `confidence` has shape (n,) in [0, 1].
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.intent.arrays import FloatArray, IntArray

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
CALIBRATION_BINS = 10
# From so many gold texts on a label is judged by itself.
JUDGED_FROM = 10
CONFUSIONS_KEPT = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its 95 % bootstrap interval; all None when there was nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """One label on gold. `judged`: there is enough of it to be judged alone."""

    label_id: int
    support: int
    precision: float
    recall: float
    f1: float
    judged: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that is said of a version by its answers to labelled texts."""

    count: int
    macro_f1: Figure
    accuracy: Figure
    calibration_error: Figure
    share_above_threshold: Figure
    accuracy_above_threshold: Figure
    threshold: float
    labels: tuple[LabelFigures, ...]
    # (true label id, answered label id, how often), the most frequent first
    confusions: tuple[tuple[int, int, int], ...]
    # per bin of confidence: lower edge, upper edge, count, mean confidence, accuracy
    reliability: tuple[tuple[float, float, int, float | None, float | None], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values without NaN."""
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
    """Measure the answers `probabilities` (n, n_labels), whose columns are `label_ids`, against `truth`.

    A true label that is not among `label_ids` is an error like any other. Intervals are percentile bootstrap intervals
    over texts (Efron and Tibshirani 1993), in which macro-F1 is taken over the labels of the resample.
    """
    truth = np.asarray(truth, dtype=np.int64)
    if len(truth) == 0:
        return _nothing(threshold)
    predicted = np.asarray(label_ids, dtype=np.int64)[probabilities.argmax(axis=1)]
    confidence = probabilities.max(axis=1)
    right = predicted == truth
    above = confidence >= threshold
    weights = resample_weights(len(truth), resamples, rng)
    codes = encode(truth, predicted)
    return Evaluation(
        count=len(truth),
        macro_f1=_figure(_macro_f1(codes, np.ones((1, len(truth)))), _macro_f1(codes, weights)),
        accuracy=_share(right, weights),
        calibration_error=_figure(
            _calibration_error(confidence, right, np.ones((1, len(truth)))),
            _calibration_error(confidence, right, weights),
        ),
        share_above_threshold=_share(above, weights),
        accuracy_above_threshold=_share(right, weights * above) if above.any() else Figure(None),
        threshold=threshold,
        labels=_per_label(truth, predicted),
        confusions=_confusions(truth, predicted),
        reliability=_reliability(confidence, right),
    )


def macro_f1(truth: IntArray, predicted: IntArray) -> float:
    """Unweighted mean of F1 over the labels that occur in `truth`."""
    return float(_macro_f1(encode(truth, predicted), np.ones((1, len(truth))))[0])


def resample_weights(count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """How often each of `count` texts occurs in each resample: shape (resamples, count), rows sum to `count`."""
    weights: FloatArray = rng.multinomial(count, np.full(count, 1.0 / count), size=resamples).astype(np.float64)
    return weights


@dataclass(frozen=True, slots=True)
class Codes:
    """Truth and prediction as small integers, for counting: predictions outside the truth's labels share one code."""

    truth: IntArray
    predicted: IntArray
    labels: int


def encode(truth: IntArray, predicted: IntArray) -> Codes:
    """Number the labels that occur in `truth`; a prediction of any other label gets the number after the last."""
    present, coded = np.unique(truth, return_inverse=True)
    position = np.searchsorted(present, predicted)
    inside = position < len(present)
    inside[inside] = present[position[inside]] == np.asarray(predicted)[inside]
    return Codes(coded.astype(np.int64), np.where(inside, position, len(present)).astype(np.int64), len(present))


def macro_f1_resampled(codes: Codes, weights: FloatArray) -> FloatArray:
    """Macro-F1 of every resample: shape (resamples,). F1 of a label is 2·hits / (true + predicted)."""
    return _macro_f1(codes, weights)


def _macro_f1(codes: Codes, weights: FloatArray) -> FloatArray:
    """Macro-F1 under each row of `weights` (resamples, n), over the labels that the row's texts have."""
    truth_of = np.eye(codes.labels)[codes.truth]
    predicted_of = np.eye(codes.labels + 1)[codes.predicted][:, : codes.labels]
    true = weights @ truth_of
    predicted = weights @ predicted_of
    hits = weights @ (truth_of * predicted_of)
    with np.errstate(invalid="ignore"):
        f1 = np.where(true + predicted > 0, 2 * hits / np.maximum(true + predicted, 1e-12), 0.0)
    present = true > 0
    scores: FloatArray = (f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return scores


def _share(hit: Any, weights: FloatArray) -> Figure:
    """The share of hits; `weights` (resamples, n) may leave texts out by a zero in every row."""
    counted = weights.any(axis=0)
    point = float(np.asarray(hit)[counted].mean()) if counted.any() else None
    totals = weights.sum(axis=1)
    kept = totals > 0
    shares = (weights[kept] @ np.asarray(hit, dtype=np.float64)) / totals[kept]
    return Figure(None) if point is None else _interval(point, shares)


def _figure(point: FloatArray, resampled: FloatArray) -> Figure:
    return _interval(float(point[0]), resampled)


def _interval(point: float, resampled: FloatArray) -> Figure:
    low, high = np.percentile(resampled, INTERVAL)
    return Figure(point, float(low), float(high))


def _calibration_error(confidence: FloatArray, right: Any, weights: FloatArray) -> FloatArray:
    """Expected calibration error (Guo et al. 2017) with ten bins of equal width, under each row of `weights`."""
    bins = np.eye(CALIBRATION_BINS)[np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)]
    gaps = np.abs((weights * (right - confidence)) @ bins)
    errors: FloatArray = gaps.sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    return errors


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
    pairs = Counter((int(t), int(p)) for t, p in zip(truth, predicted, strict=True) if t != p)
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple((true, given, times) for (true, given), times in ordered[:CONFUSIONS_KEPT])


def _reliability(
    confidence: FloatArray, right: Any
) -> tuple[tuple[float, float, int, float | None, float | None], ...]:
    which = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows: list[tuple[float, float, int, float | None, float | None]] = []
    for number in range(CALIBRATION_BINS):
        inside = which == number
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else None
        accuracy = float(np.asarray(right)[inside].mean()) if count else None
        rows.append((number / CALIBRATION_BINS, (number + 1) / CALIBRATION_BINS, count, mean, accuracy))
    return tuple(rows)


def _nothing(threshold: float) -> Evaluation:
    none = Figure(None)
    return Evaluation(0, none, none, none, none, none, threshold, (), (), ())
