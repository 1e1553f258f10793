"""Decide whether a version may take over: it must not be worse than what serves, nor than the best that ever served."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from app.intent.arrays import IntArray
from app.intent.evaluation import (
    INTERVAL,
    JUDGED_FROM,
    RESAMPLES,
    encode,
    macro_f1_resampled,
    resample_weights,
)

# Fewer gold texts than these prove little: the version says so.
STRONG_FROM = 50
COLLAPSE_RECALL = 0.5
COLLAPSE_P = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Δ macro-F1, candidate minus reference, on the same gold; `low` and `high` bound its paired 95 % interval."""

    reference: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the version passed, on which evidence, and every reason against it as a sentence."""

    passed: bool
    evidence: str
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    # The smallest loss of macro-F1 that this gold could have shown; None without a comparison.
    smallest_visible_loss: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rival:
    """A version that the candidate is measured against: its name and its answers (n,) to the same gold."""

    version: str
    predicted: IntArray


@dataclass(frozen=True, slots=True)
class FirstProof:
    """What a first version must beat: out-of-fold figures of itself and of always answering the most frequent label."""

    accuracy: float
    macro_f1: float
    majority_accuracy: float
    majority_macro_f1: float


def compare(truth: IntArray, candidate: IntArray, rival: Rival, rng: np.random.Generator) -> Comparison:
    """Paired bootstrap over texts (Efron and Tibshirani 1993): both versions answer each resample. Label ids, (n,)."""
    weights = resample_weights(len(truth), RESAMPLES, rng)
    ours, theirs = encode(truth, candidate), encode(truth, rival.predicted)
    differences = macro_f1_resampled(ours, weights) - macro_f1_resampled(theirs, weights)
    whole = np.ones((1, len(truth)))
    point = float(macro_f1_resampled(ours, whole)[0] - macro_f1_resampled(theirs, whole)[0])
    low, high = np.percentile(differences, INTERVAL)
    return Comparison(rival.version, point, float(low), float(high))


def collapsed(truth: IntArray, candidate: IntArray, active: IntArray) -> list[int]:
    """Judged labels whose recall fell by at least 0.5, more than chance explains (one-sided sign test, p < 0.05)."""
    labels = []
    for label in np.unique(truth):
        mine = truth == label
        if mine.sum() < JUDGED_FROM:
            continue
        won = int((mine & (candidate == truth) & (active != truth)).sum())
        lost = int((mine & (candidate != truth) & (active == truth)).sum())
        if (lost - won) / mine.sum() < COLLAPSE_RECALL:
            continue
        if binomtest(lost, lost + won, alternative="greater").pvalue < COLLAPSE_P:
            labels.append(int(label))
    return labels


def judge(truth: IntArray, candidate: IntArray, rivals: Sequence[Rival], rng: np.random.Generator) -> GateDecision:
    """Compare a candidate on gold with what serves (the first rival) and with the best that served before (others)."""
    evidence = "strong" if len(truth) >= STRONG_FROM else "weak"
    if len(truth) == 0:
        return GateDecision(True, "weak", ("there is no gold yet to compare on",))
    comparisons = tuple(compare(truth, candidate, rival, rng) for rival in rivals)
    reasons = [
        f"macro-F1 on {len(truth)} gold texts is {-c.difference:.3f} below {c.reference} "
        f"(95 % interval of the difference {c.low:+.3f} to {c.high:+.3f})."
        for c in comparisons
        if c.high < 0
    ]
    for label in collapsed(truth, candidate, rivals[0].predicted) if rivals else []:
        reasons.append(f"label {label} collapsed: its recall fell by half or more against {rivals[0].version}.")
    visible = max((c.difference - c.low for c in comparisons), default=None)
    return GateDecision(not reasons, evidence, tuple(reasons), comparisons, visible)


def judge_first(proof: FirstProof, gold: int) -> GateDecision:
    """A first version has no rival: it must beat always answering the most frequent label, out of fold."""
    reasons = []
    if proof.macro_f1 <= proof.majority_macro_f1:
        reasons.append(
            f"out of fold its macro-F1 {proof.macro_f1:.3f} does not beat the most frequent label's "
            f"{proof.majority_macro_f1:.3f}."
        )
    if proof.accuracy < proof.majority_accuracy:
        reasons.append(
            f"out of fold its accuracy {proof.accuracy:.3f} is below the most frequent label's "
            f"{proof.majority_accuracy:.3f}."
        )
    return GateDecision(not reasons, "strong" if gold >= STRONG_FROM else "weak", tuple(reasons))
