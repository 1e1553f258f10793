"""Decide whether a version may take over: it must not be worse than what serves, nor than the best that ever served."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Final

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import (
    INTERVAL,
    JUDGED_FROM,
    RESAMPLES,
    encode,
    macro_f1_resampled,
    resample_weights,
)

STRONG_FROM: Final = 50  # gold texts; fewer prove little, and the version says so
COLLAPSE_RECALL: Final = 0.5
COLLAPSE_P: Final = 0.05


@dataclass(frozen=True, slots=True)
class Rival:
    """A version that the candidate is measured against: its name and its answers to the same gold, label ids (n,)."""

    version: str
    predicted: IntArray


@dataclass(frozen=True, slots=True)
class FirstProof:
    """Out-of-fold figures in [0, 1] of a first version, of always answering the most frequent label, and of rules."""

    accuracy: float
    macro_f1: float
    majority_accuracy: float
    majority_macro_f1: float
    # None where the domain has no rules.
    rules_macro_f1: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Δ macro-F1, candidate minus reference, on the same gold; `low` and `high` bound its paired 95 % interval."""

    reference: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the version passed, and why.

    `evidence` is `strong` or `weak`. `reasons` are sentences: all that speaks against a refused version, and what
    weakens the proof of one that passed. `smallest_visible_loss` is the loss of macro-F1 that this gold could just
    have shown: half the width of the widest interval, None without a comparison.
    """

    passed: bool
    evidence: str
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    smallest_visible_loss: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(truth: IntArray, candidate: IntArray, rivals: Sequence[Rival], rng: np.random.Generator) -> GateDecision:
    """Compare a candidate on gold with the active version, the first rival, and with the best that served before.

    Refused is a candidate whose whole interval of Δ macro-F1 against any rival lies below 0, and one that lets a label
    collapse (see `collapsed_labels`) against the active version. `truth` and `candidate`: label ids, shape (n,).
    """
    if len(truth) == 0:
        return GateDecision(True, "weak", ("There is no gold yet to compare on.",))
    weights = resample_weights(len(truth), RESAMPLES, rng)
    comparisons = tuple(compare(truth, candidate, rival, weights) for rival in rivals)
    against = [_loss(comparison, len(truth)) for comparison in comparisons if comparison.high < 0.0]
    if rivals:
        against += _collapses(truth, candidate, rivals[0])
    visible = max(((each.high - each.low) / 2 for each in comparisons), default=None)
    evidence = _evidence(len(truth))
    notes = []
    if evidence == "weak" and visible is not None:
        notes = [f"Weak evidence: on {len(truth)} gold texts only a loss of about {visible:.3f} would have been seen."]
    return GateDecision(not against, evidence, tuple(against or notes), comparisons, visible)


def judge_first(proof: FirstProof, gold: int) -> GateDecision:
    """A first version has no rival: out of fold it must beat the most frequent label, and not fall below the rules.

    Its macro-F1 must be higher and its accuracy no lower: where one label is nearly everything, nobody can be right
    more often than by answering it. `gold`: labelled gold texts.
    """
    against = []
    if not proof.macro_f1 > proof.majority_macro_f1:
        against.append(
            f"Out of fold its macro-F1 of {proof.macro_f1:.3f} does not beat the {proof.majority_macro_f1:.3f} "
            "of always answering the most frequent label."
        )
    if not proof.accuracy >= proof.majority_accuracy:
        against.append(
            f"Out of fold its accuracy of {proof.accuracy:.3f} is below the {proof.majority_accuracy:.3f} "
            "of always answering the most frequent label."
        )
    if proof.rules_macro_f1 is not None and proof.macro_f1 < proof.rules_macro_f1:
        against.append(
            f"Out of fold its macro-F1 of {proof.macro_f1:.3f} is below the {proof.rules_macro_f1:.3f} "
            "of the rules that answer without it."
        )
    return GateDecision(not against, _evidence(gold), tuple(against))


def compare(truth: IntArray, candidate: IntArray, rival: Rival, weights: FloatArray) -> Comparison:
    """Paired bootstrap over texts (Efron & Tibshirani 1993): both versions answer the same resamples.

    `weights`: from `resample_weights`, shape (resamples, n).
    """
    ours, theirs = encode(truth, candidate), encode(truth, rival.predicted)
    whole = np.ones((1, len(truth)))
    point = macro_f1_resampled(ours, whole) - macro_f1_resampled(theirs, whole)
    low, high = np.percentile(macro_f1_resampled(ours, weights) - macro_f1_resampled(theirs, weights), INTERVAL)
    return Comparison(rival.version, float(point[0]), float(low), float(high))


def collapsed_labels(truth: IntArray, candidate: IntArray, active: IntArray) -> list[int]:
    """Labels of which a version loses so much that macro-F1 over many labels could hide it.

    A label collapses when it has `JUDGED_FROM` gold texts or more, its recall falls by `COLLAPSE_RECALL` or more, and
    chance does not explain it: of the texts that just one of the two versions got right, too few are the candidate's
    (one-sided exact sign test, p < `COLLAPSE_P`).
    """
    collapsed = []
    for label in np.unique(truth):
        of_label = truth == label
        support = int(of_label.sum())
        won = int((of_label & (candidate == truth) & (active != truth)).sum())
        lost = int((of_label & (candidate != truth) & (active == truth)).sum())
        if support < JUDGED_FROM or lost - won < COLLAPSE_RECALL * support:
            continue
        if _sign_test(lost, won) < COLLAPSE_P:
            collapsed.append(int(label))
    return collapsed


def _sign_test(lost: int, won: int) -> float:
    """How likely at least `lost` of `lost + won` changes are losses when either way is as likely: exact, one-sided.

    Written out: scipy.stats would add most of a second to every start of a clock.
    """
    changes = lost + won
    ways = sum(comb(changes, losses) for losses in range(lost, changes + 1))
    return ways / (1 << changes)


def _evidence(gold: int) -> str:
    return "strong" if gold >= STRONG_FROM else "weak"


def _loss(comparison: Comparison, count: int) -> str:
    return (
        f"Macro-F1 on {count} gold texts is {-comparison.difference:.3f} below that of {comparison.reference} "
        f"(95 % interval of the difference {comparison.low:+.3f} to {comparison.high:+.3f})."
    )


def _collapses(truth: IntArray, candidate: IntArray, active: Rival) -> list[str]:
    sentences = []
    for label in collapsed_labels(truth, candidate, active.predicted):
        of_label = truth == label
        before, now = (active.predicted[of_label] == label).mean(), (candidate[of_label] == label).mean()
        sentences.append(
            f"Label {label} collapsed: its recall on {of_label.sum()} gold texts fell from {before:.2f} with "
            f"{active.version} to {now:.2f}."
        )
    return sentences
