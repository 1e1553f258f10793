"""Fit the threshold from which on a verdict stands, on answers to texts that the model had not seen.

In this module `predicted` and `truth` have shape (n,) and hold label ids, `confidence` has shape (n,) and lies in
[0, 1]; all are out of fold, never gold.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import calibration_error, macro_f1, reliability
from app.intent.proportions import clopper_pearson_upper

LOWEST: Final = 0.50
HIGHEST: Final = 0.90
STRICTEST: Final = 0.99
STEP: Final = 0.01
TARGET_ACCURACY: Final = 0.90
MOST_RISK: Final = 0.02
SURE: Final = 0.95
NOISE: Final = 0.001
"""So little of macro-F1 is no reason to prefer one τ to another."""
NOTHING_STANDS: Final = 1.0
"""τ where no threshold keeps its promise: a person looks at everything."""


@dataclass(frozen=True, slots=True)
class Held:
    """Answers of one tier to n held-out texts; where it gave none, label -1 at confidence 0."""

    predicted: IntArray
    confidence: FloatArray


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one threshold would do: the cascade's macro-F1, and how many texts stand above it, and how many wrongly.

    `error_bound`: the share of wrong answers above it is at most this, with 95 % confidence (Clopper & Pearson 1934).
    """

    threshold: float
    macro_f1: float
    above: int
    wrong: int
    error_bound: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The threshold that a policy takes, and whether it was chosen for what the policy looks for.

    `reached` is False where there was nothing to choose by: `sweep` then takes the lowest threshold from which on
    `TARGET_ACCURACY` of the answers are right, `risk` lets nothing stand.
    """

    threshold: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Both policies on the same answers, the one that counts, and what they chose from.

    `reliability` and `calibration_error` are those of `app.intent.evaluation`.
    """

    policy: str
    policies: Mapping[str, Policy]
    count: int
    candidates: tuple[Candidate, ...]
    reliability: tuple[tuple[float, float, int, float | None, float | None], ...]
    calibration_error: float | None

    @property
    def threshold(self) -> float:
        """The τ of the policy that counts."""
        return self.policies[self.policy].threshold

    def as_json(self) -> dict[str, Any]:
        """Plain values; of the candidates those that a policy took, and every fifth."""
        taken = {policy.threshold for policy in self.policies.values()}
        shown = [c for c in self.candidates if c.threshold in taken or round(c.threshold * 100) % 5 == 0]
        return {
            "policy": self.policy,
            "threshold": self.threshold,
            "policies": {name: asdict(policy) for name, policy in self.policies.items()},
            "count": self.count,
            "candidates": [asdict(candidate) for candidate in shown],
            "reliability": self.reliability,
            "calibration_error": self.calibration_error,
        }


def fit_thresholds(truth: IntArray, first: Held, later: Held | None = None, *, policy: str = "sweep") -> Thresholds:
    """Fit τ by every policy. `first` and `later`: the tier that is asked first, and the one asked below τ, if any.

    Raises:
        KeyError: there is no such policy.
    """
    if policy not in POLICIES:
        raise KeyError(f"there is no policy of this name; there are {', '.join(POLICIES)}")
    right = first.predicted == truth
    candidates = tuple(_candidates(truth, first, later))
    return Thresholds(
        policy=policy,
        policies={name: choose(candidates, first.confidence, right) for name, choose in POLICIES.items()},
        count=len(truth),
        candidates=candidates,
        reliability=reliability(first.confidence, right),
        calibration_error=calibration_error(first.confidence, right),
    )


def _candidates(truth: IntArray, first: Held, later: Held | None) -> list[Candidate]:
    right = first.predicted == truth
    alone = macro_f1(truth, first.predicted)
    found = []
    for hundredths in range(round(LOWEST / STEP), round(STRICTEST / STEP) + 1):
        threshold = hundredths / 100
        stands = first.confidence >= threshold
        above, wrong = int(stands.sum()), int((stands & ~right).sum())
        f1 = alone if later is None else macro_f1(truth, cascaded(first, later, threshold))
        found.append(Candidate(threshold, f1, above, wrong, clopper_pearson_upper(wrong, above, SURE)))
    return found


def cascaded(first: Held, later: Held, threshold: float) -> IntArray:
    """What a cascade of two answers: the first tier's label where it stands, else the more confident one, the first of
    equal ones; shape (n,).
    """
    keeps = (first.confidence >= threshold) | (first.confidence >= later.confidence)
    answers: IntArray = np.where(keeps, first.predicted, later.predicted)
    return answers


def _sweep(candidates: tuple[Candidate, ...], confidence: FloatArray, right: NDArray[np.bool_]) -> Policy:
    """The best macro-F1 of the cascade within 0.50 … 0.90; of equal ones the lowest τ, which asks the least.

    One tier alone answers the same labels at every τ: there is nothing to sweep for, and the accuracy above τ decides;
    also where its τ is as good as the best but for `NOISE`, so that luck does not move what people look at.
    """
    within = [candidate for candidate in candidates if candidate.threshold <= HIGHEST]
    scores = {candidate.threshold: candidate.macro_f1 for candidate in within}
    best = max(scores, key=lambda threshold: (scores[threshold], -threshold))
    by_accuracy = fit_threshold(confidence, right)
    is_flat = scores[best] - min(scores.values()) <= 1e-9
    return Policy(by_accuracy if scores[best] - scores[by_accuracy] <= NOISE else best, not is_flat)


def _risk(
    candidates: tuple[Candidate, ...],
    confidence: FloatArray,  # noqa: ARG001 - all policies are asked alike
    right: NDArray[np.bool_],  # noqa: ARG001
) -> Policy:
    """The lowest τ whose error above it is at most 2 % with 95 % confidence: it takes 149 texts without an error."""
    lowest = next((c.threshold for c in candidates if c.error_bound <= MOST_RISK), None)
    return Policy(NOTHING_STANDS, False) if lowest is None else Policy(lowest, True)


POLICIES: Final[Mapping[str, Callable[[tuple[Candidate, ...], FloatArray, NDArray[np.bool_]], Policy]]] = {
    "sweep": _sweep,
    "risk": _risk,
}


def fit_threshold(confidence: FloatArray, correct: NDArray[np.bool_], *, target: float = TARGET_ACCURACY) -> float:
    """The lowest τ of 0.50, 0.51 … 0.90 from which on answers are right in at least `target` of the cases.

    0.50 where answers of any confidence are that good. 0.90 where no τ reaches the target or there is nothing to fit
    on: a person rather looks once too often. `correct`: shape (n,).
    """
    right = np.asarray(correct, dtype=bool)
    if len(right) == 0:
        return HIGHEST
    if right.mean() >= target:
        return LOWEST
    for hundredths in range(round(LOWEST / STEP), round(HIGHEST / STEP) + 1):
        threshold = hundredths / 100
        above = np.asarray(confidence) >= threshold
        if above.any() and right[above].mean() >= target:
            return threshold
    return HIGHEST
